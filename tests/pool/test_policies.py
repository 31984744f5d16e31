"""The policies decide as PHP-FPM does, tick by tick."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.model import PoolSettings
from lab.core.states import Policy
from lab.pool.policies import POLICIES, Census, Decision, Dynamic, Idle, OnDemand, Static, requests_allowed

SETTINGS = PoolSettings(max_workers=10, min_spare=2, max_spare=4, start_workers=3)
NOTHING = Decision()


def idle(number: int, since: float = 0.0) -> tuple[Idle, ...]:
    """So many idle workers; the one in the highest slot is the oldest."""
    return tuple(Idle(slot, started=100.0 - slot, since=since) for slot in range(number))


def census(running: int, idle_workers: int = 0, starting: int = 0, now: float = 1000.0) -> Census:
    return Census(now, running, starting, idle(idle_workers))


def test_every_policy_of_the_manifest_is_there():
    assert set(POLICIES) == set(Policy)


def test_static_is_max_workers_whatever_happens():
    policy = Static()
    assert policy.begin(SETTINGS) == 10
    assert policy.bounds(SETTINGS) == (10, 10)
    assert policy.tick(SETTINGS, census(10)) == NOTHING
    assert policy.starved(SETTINGS, census(10)) == NOTHING


@pytest.mark.parametrize(
    ("running", "idle_workers", "decision"),
    [
        (5, 2, NOTHING),
        (5, 4, NOTHING),
        (5, 5, Decision(stop=(4,))),
        (8, 8, Decision(stop=(7,))),
        (5, 1, Decision(start=1)),
        (5, 0, Decision(start=1)),
        (10, 0, Decision(limited=True)),
        (10, 5, Decision(stop=(4,))),
    ],
)
def test_a_first_tick_of_dynamic(running, idle_workers, decision):
    assert Dynamic().tick(SETTINGS, census(running, idle_workers)) == decision


def test_the_oldest_idle_worker_is_the_one_that_was_forked_first():
    workers = (Idle(0, 5.0, 9.0), Idle(1, 3.0, 9.0), Idle(2, 4.0, 1.0))
    settings = PoolSettings(max_workers=10, min_spare=1, max_spare=2)
    assert Dynamic().tick(settings, Census(10.0, 3, 0, workers)) == Decision(stop=(1,))


def test_the_rate_doubles_while_it_is_not_enough_up_to_32():
    settings = PoolSettings(max_workers=1000, min_spare=900, max_spare=950)
    policy = Dynamic()
    assert [policy.tick(settings, census(0)).start for _ in range(8)] == [1, 2, 4, 8, 16, 32, 32, 32]


@pytest.mark.parametrize(
    "calm", [census(10, 3), census(10, 8), census(1000, 0)], ids=["balance", "surplus", "saturation"]
)
def test_the_rate_begins_anew_after(calm):
    settings = PoolSettings(max_workers=1000, min_spare=3, max_spare=5)
    busy = PoolSettings(max_workers=1000, min_spare=900, max_spare=950)
    policy = Dynamic()
    for _ in range(4):
        policy.tick(busy, census(0))
    policy.tick(settings, calm)
    assert policy.tick(busy, census(0)).start == 1


def test_never_more_are_started_than_are_missing_or_than_there_is_room_for():
    policy = Dynamic()
    for _ in range(4):
        policy.tick(PoolSettings(max_workers=100, min_spare=90, max_spare=95), census(0))
    assert policy.tick(PoolSettings(max_workers=100, min_spare=3, max_spare=5), census(50, 1)).start == 2
    assert policy.tick(PoolSettings(max_workers=51, min_spare=9, max_spare=10), census(50)).start == 1


def test_workers_that_are_starting_are_not_started_twice():
    assert Dynamic().tick(SETTINGS, census(5, idle_workers=1, starting=1)) == NOTHING
    assert Dynamic().tick(SETTINGS, census(5, starting=1)) == Decision(start=1)


def test_workers_that_are_starting_are_no_surplus():
    assert Dynamic().tick(SETTINGS, census(9, idle_workers=4, starting=5)) == NOTHING


def test_min_workers_is_a_floor():
    settings = PoolSettings(max_workers=10, min_workers=6, min_spare=1, max_spare=2, start_workers=3)
    policy = Dynamic()
    assert policy.bounds(settings) == (6, 10)
    assert policy.tick(settings, census(6, 6)) == NOTHING
    assert policy.tick(settings, census(7, 7)).stop == (6,)


def test_a_starved_request_starts_one_at_once_if_there_is_room_and_nobody_idle():
    policy = Dynamic()
    assert policy.starved(SETTINGS, census(5)) == Decision(start=1)
    assert policy.starved(SETTINGS, census(5, idle_workers=1)) == NOTHING
    assert policy.starved(SETTINGS, census(10)) == Decision(limited=True)


def test_without_spawn_on_starved_dynamic_waits_for_its_tick():
    exactly = PoolSettings(max_workers=10, spawn_on_starved=False)
    assert Dynamic().starved(exactly, census(5)) == NOTHING
    assert Dynamic().starved(exactly, census(10)) == NOTHING


def test_ondemand_begins_with_none_and_starts_one_for_each_request_that_finds_none_idle():
    policy = OnDemand()
    assert policy.begin(SETTINGS) == 0
    assert policy.starved(SETTINGS, census(0)) == Decision(start=1)
    assert policy.starved(SETTINGS, census(1, starting=1)) == Decision(start=1)
    assert policy.starved(SETTINGS, census(2, idle_workers=1, starting=1)) == NOTHING
    assert policy.starved(SETTINGS, census(10)) == Decision(limited=True)


def test_ondemand_stops_whoever_was_idle_for_idle_timeout():
    settings = PoolSettings(max_workers=10, idle_timeout=5.0)
    workers = (Idle(0, 1.0, 94.9), Idle(1, 1.0, 95.1), Idle(2, 2.0, 90.0))
    assert OnDemand().tick(settings, Census(100.0, 5, 0, workers)) == Decision(stop=(0, 2))


class Fpm:
    """`fpm_pctl_perform_idle_server_maintenance`, for PM_STYLE_DYNAMIC, line by line."""

    def __init__(self) -> None:
        self.rate = 1

    def maintain(self, idle: int, running: int, settings: PoolSettings) -> tuple[int, int, bool]:
        """Children forked, children killed, and whether `max_children` was in the way."""
        if idle > settings.max_spare:
            self.rate = 1
            return 0, 1, False
        if idle < settings.min_spare:
            if running >= settings.max_workers:
                self.rate = 1
                return 0, 0, True
            fork = min(self.rate, settings.min_spare - idle, settings.max_workers - running)
            if self.rate < 32:
                self.rate *= 2
            return fork, 0, False
        self.rate = 1
        return 0, 0, False


@given(
    most=st.integers(1, 80),
    spare=st.tuples(st.integers(1, 60), st.integers(0, 40)),
    busy=st.lists(st.integers(0, 100), min_size=1, max_size=40),
)
def test_dynamic_does_what_php_fpm_does_under_any_load(most, spare, busy):
    settings = PoolSettings(max_workers=most, min_spare=spare[0], max_spare=sum(spare), start_workers=1)
    ours, fpm, running = Dynamic(), Fpm(), 1
    for load in busy:
        free = running - min(load, running)
        decision = ours.tick(settings, census(running, free))
        assert (decision.start, len(decision.stop), decision.limited) == fpm.maintain(free, running, settings)
        running += decision.start - len(decision.stop)
        assert 0 <= running <= most


@given(st.integers(1, 100_000), st.floats(0, 1, exclude_max=True))
def test_a_worker_may_serve_max_requests_and_up_to_a_tenth_more(most, luck):
    allowed = requests_allowed(PoolSettings(max_requests=most), luck)
    assert most <= allowed <= most * 1.1
