"""Time stands still in tests until it is told to go on."""

import time

from lab.core.clock import ManualClock, SystemClock


def test_a_manual_clock_moves_only_when_it_is_moved_and_then_both_hands_alike() -> None:
    clock = ManualClock(monotonic=5.0, wall=100.0)
    assert (clock.monotonic(), clock.wall()) == (5.0, 100.0)
    clock.advance(2.5)
    assert (clock.monotonic(), clock.wall()) == (7.5, 102.5)


def test_the_system_clock_is_the_kernels_so_that_processes_agree() -> None:
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    now = SystemClock().monotonic()
    assert before <= now <= time.clock_gettime(time.CLOCK_MONOTONIC)
    assert abs(SystemClock().wall() - time.time()) < 1
