"""What follows a death: at once, after a wait, or not before a half-open try."""

import random

import pytest

from lab.core.model import PoolSettings
from lab.core.states import Cause, WorkerState
from lab.pool.slot import Slot
from lab.pool.worker import By, Death

_S = WorkerState
SETTINGS = PoolSettings(stable_after=1.0, backoff_initial=0.1, backoff_max=30.0, intensity_failures=5)


def death(at: float, ready_at: float | None = None, by: By = By.ITSELF) -> Death:
    return Death(at, pid=41, status=1, cause=Cause.CRASHED, by=by, ready_at=ready_at, signal_at=None)


def died(slot: Slot, one: Death, settings: PoolSettings = SETTINGS):
    return slot.died(one, 0, settings, random.Random(1))


def test_the_restart_after_a_stable_life_is_immediate():
    assert died(Slot(0), death(10.0, ready_at=5.0)).state is _S.PENDING


def test_early_deaths_wait_twice_as_long_each_time_within_the_jitter():
    slot = Slot(0)
    delays = [died(slot, death(at, ready_at=at - 0.5)).delay for at in (1.0, 2.0, 3.0, 4.0)]
    for delay, full in zip(delays, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert 0.8 * full <= delay <= full


def test_the_wait_tells_how_many_deaths_in_which_time():
    slot = Slot(0)
    for at in (1.0, 3.0):
        died(slot, death(at, ready_at=at))
    assert died(slot, death(5.0, ready_at=5.0)).why == "3 deaths in 4.0 s"


def test_a_kill_by_a_person_never_counts():
    slot = Slot(0)
    died(slot, death(1.0, ready_at=1.0))
    assert died(slot, death(2.0, ready_at=2.0, by=By.PERSON)).state is _S.PENDING
    assert died(slot, death(3.0, ready_at=3.0)).why.startswith("2 deaths")


def test_a_stable_life_ends_the_row():
    slot = Slot(0)
    for at in (1.0, 2.0):
        died(slot, death(at, ready_at=at))
    died(slot, death(9.0, ready_at=3.0))
    assert died(slot, death(9.5, ready_at=9.4)).why == "1 early death"


def test_five_failed_starts_within_the_window_are_enough():
    slot = Slot(0)
    states = [died(slot, death(at)).state for at in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert states == [_S.BACKOFF] * 4 + [_S.FAILED]


def test_five_failed_starts_over_a_longer_time_are_not():
    slot = Slot(0)
    assert {died(slot, death(at)).state for at in (0.0, 4.0, 8.0, 12.0, 16.0, 20.0)} == {_S.BACKOFF}


def test_a_half_open_try_that_fails_fails_at_once_and_one_that_is_ready_starts_afresh():
    slot = Slot(0)
    for at in (1.0, 2.0, 3.0, 4.0, 5.0):
        died(slot, death(at))
    assert died(slot, death(60.0)).state is _S.FAILED
    slot.recovered()
    assert died(slot, death(62.0)).state is _S.BACKOFF


def test_a_person_may_forgive_it_all():
    slot = Slot(0)
    for at in (1.0, 2.0, 3.0, 4.0, 5.0):
        died(slot, death(at))
    slot.forgive()
    verdict = died(slot, death(6.0))
    assert (verdict.state, verdict.why) == (_S.BACKOFF, "1 early death")


def test_an_outage_lasts_from_the_first_death_to_the_next_ready_worker():
    slot = Slot(0)
    first = death(10.0, ready_at=1.0)
    slot.died(first, 3, SETTINGS, random.Random(1))
    slot.died(death(10.1), 0, SETTINGS, random.Random(1))
    assert slot.recovered() == (first, 3)
    assert slot.recovered() is None


def test_a_slot_that_is_relieved_is_in_no_outage_any_more_and_still_has_failed():
    slot = Slot(0)
    first = death(1.0, ready_at=0.9)
    slot.died(first, 2, SETTINGS, random.Random(1))
    for at in (2.0, 3.0, 4.0, 5.0, 6.0):
        died(slot, death(at))
    assert slot.relieved() == (first, 2)
    assert slot.relieved() is None
    assert died(slot, death(60.0)).state is _S.FAILED


def test_a_taken_port_is_forgiven_only_a_few_times_in_a_row():
    slot = Slot(0)
    assert [slot.lost_port() for _ in range(4)] == [True, True, True, False]
    slot.recovered()
    assert slot.lost_port()


@pytest.mark.parametrize("stable_after", [0.0])
def test_with_stable_after_zero_every_ready_worker_was_stable(stable_after):
    settings = PoolSettings(stable_after=stable_after)
    assert died(Slot(0), death(1.0, ready_at=1.0), settings).state is _S.PENDING
