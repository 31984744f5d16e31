"""Each invariant of a pool, broken on purpose: the watch has to see it, and nothing else."""

import pytest

from lab.core.model import WorkerId
from lab.core.snapshot import Invariants
from lab.pool.invariants import PoolInvariants


def worker(slot: int = 0, generation: int = 1) -> WorkerId:
    return WorkerId("app", slot, generation)


@pytest.fixture
def watch() -> PoolInvariants:
    """A pool of one slot, which is to be filled."""
    watch = PoolInvariants()
    watch.occupied(0)
    return watch


def look(watch: PoolInvariants, now: float, most: int = 1, due: tuple[float, ...] = (), hung: bool = False):
    watch.look(now, most, due, hung)
    return watch.breaches(now)


def test_a_life_without_fault_breaks_nothing(watch):
    watch.started(worker(), 1.0, 1)
    watch.gone(worker())
    watch.waits(0, 1.5)
    watch.started(worker(generation=2), 1.5, 1)
    watch.stopping(worker(generation=2), until=3.0)
    watch.left(0)
    watch.gone(worker(generation=2))
    assert look(watch, 9.0) == ()


def test_one_worker_too_many(watch):
    watch.started(worker(), 1.0, 1)
    watch.started(worker(generation=2), 1.1, 1)
    assert watch.breaches(1.1) == ("within_bounds",)


def test_a_bound_that_sank_while_nobody_was_stopped(watch):
    watch.started(worker(), 1.0, 1)
    assert look(watch, 2.0, most=0) == ("within_bounds",)


def test_the_successor_in_a_replacement_is_one_more_that_may_be(watch):
    watch.started(worker(), 1.0, 1)
    watch.started(worker(generation=2), 1.1, 2)
    watch.stopping(worker(), until=3.0)
    assert look(watch, 2.0) == ()


def test_a_slot_that_was_left_is_filled_again(watch):
    watch.started(worker(), 1.0, 1)
    watch.stopping(worker(), until=3.0)
    watch.left(0)
    watch.gone(worker())
    watch.started(worker(generation=2), 1.5, 1)
    assert watch.breaches(1.5) == ("stops_are_final",)


def test_a_stopped_worker_is_not_gone_within_its_grace(watch):
    watch.started(worker(), 1.0, 1)
    watch.stopping(worker(), until=3.0)
    assert look(watch, 2.9) == ()
    assert look(watch, 3.1) == ("stops_are_final",)


def test_a_worker_that_never_had_a_process_need_not_be_gone(watch):
    watch.stopping(worker(), until=3.0)
    assert look(watch, 9.0) == ()


def test_a_slot_is_filled_before_its_back_off_has_passed(watch):
    watch.waits(0, 2.0)
    watch.started(worker(), 1.9, 1)
    assert watch.breaches(1.9) == ("backoff_kept",)


def test_a_person_may_end_a_back_off(watch):
    watch.waits(0, 2.0)
    watch.forgiven(0)
    watch.started(worker(), 1.0, 1)
    assert watch.breaches(1.0) == ()


def test_a_probe_that_was_due_before_the_last_look_and_has_not_begun_while_another_worker_hangs(watch):
    assert look(watch, 10.0, due=(9.9,), hung=True) == ()
    assert look(watch, 11.0, due=(9.9,), hung=True) == ("probes_on_time",)


def test_a_late_probe_where_nobody_hangs_is_the_machine_s_own_slowness(watch):
    look(watch, 10.0)
    assert look(watch, 11.0, due=(9.9,)) == ()


def test_a_breach_is_told_for_ten_seconds(watch):
    watch.waits(0, 2.0)
    watch.started(worker(), 1.0, 1)
    assert watch.breaches(10.9) == ("backoff_kept",)
    assert watch.breaches(11.1) == ()


def test_breaches_are_named_as_the_snapshot_names_them():
    named = {"within_bounds", "stops_are_final", "backoff_kept", "probes_on_time"}
    assert named <= set(Invariants.__struct_fields__)
