"""The timer wheel: never early, at most a tick late, and cheap to move."""

import asyncio
import time

import pytest

from lab.core.clock import SystemClock
from lab.proxy.timeouts import NEVER, TICK, Timed, TimerWheel


class Alarm(Timed):
    """Remembers when it rang."""

    def __init__(self) -> None:
        super().__init__()
        self.rang = asyncio.Event()
        self.at = 0.0

    def expired(self) -> None:
        self.at = time.monotonic()
        self.rang.set()


@pytest.fixture
async def wheel():
    wheel = TimerWheel(SystemClock())
    wheel.start()
    yield wheel
    wheel.stop()


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.13, 0.3])
async def test_a_deadline_is_met_not_early_and_at_most_about_a_tick_late(wheel, seconds):
    alarm, due = Alarm(), time.monotonic() + seconds
    wheel.arm(alarm, due)
    looked: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds + 4 * TICK, lambda: looked.set_result(alarm.rang.is_set()))
    assert await looked  # a loop that is late is late for both
    assert due <= alarm.at


async def test_a_deadline_moved_later_by_assignment_alone_is_met_then(wheel):
    alarm, begin = Alarm(), time.monotonic()
    wheel.arm(alarm, begin + 0.05)
    alarm.deadline = begin + 0.25
    await asyncio.wait_for(alarm.rang.wait(), 30)
    assert alarm.at >= begin + 0.25


async def test_a_deadline_moved_earlier_is_met_then(wheel):
    alarm, begin = Alarm(), time.monotonic()
    wheel.arm(alarm, begin + 60)
    wheel.arm(alarm, begin + 0.05)
    await asyncio.wait_for(alarm.rang.wait(), 30)


async def test_never_and_forgotten_ring_no_more(wheel):
    idle, gone, last = Alarm(), Alarm(), Alarm()
    now = time.monotonic()
    for alarm in (idle, gone):
        wheel.arm(alarm, now + 0.05)
    idle.deadline = NEVER
    wheel.forget(gone)
    wheel.arm(last, now + 0.2)
    await asyncio.wait_for(last.rang.wait(), 30)
    assert not idle.rang.is_set()
    assert not gone.rang.is_set()
