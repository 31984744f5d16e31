"""Which revision a worker is to run, while one program follows another."""

from lab.core.model import Contract, ResourceLimits
from lab.pool.build import Program
from lab.pool.rollout import Rollout, Step


def program(digest: str) -> Program:
    return Program(("run",), (), digest, Contract.HTTP_PORT, 1, ResourceLimits(), notifies=False)


OLD, NEW = program("old"), program("new")


def serving() -> Rollout:
    """A pool that has served its first program."""
    rollout = Rollout()
    assert rollout.prepared(OLD, serving=False, reload=False) is Step.ADOPT
    assert not rollout.ready(rollout.current.number), "the first program is no news"
    return rollout


def test_the_first_program_is_taken_as_it_comes_and_is_no_reload():
    rollout = serving()
    assert rollout.current.program is OLD
    assert not rollout.rolling


def test_a_changed_program_is_tried_before_it_is_adopted():
    rollout = serving()
    before = rollout.current
    assert rollout.prepared(NEW, serving=True, reload=False) is Step.TRY
    assert (rollout.current, rollout.wanted.program, rollout.rolling) == (before, NEW, True)
    assert rollout.ready(rollout.trial.number)
    assert (rollout.current.program, rollout.trial) == (NEW, None)
    assert rollout.rolling, "the others have still to follow"


def test_where_nobody_serves_there_is_nothing_to_lose():
    rollout = serving()
    assert rollout.prepared(NEW, serving=False, reload=False) is Step.ADOPT
    assert rollout.current.program is NEW
    assert rollout.ready(rollout.current.number)


def test_a_worker_of_the_old_program_proves_nothing():
    rollout = serving()
    old = rollout.current.number
    rollout.prepared(NEW, serving=True, reload=False)
    assert not rollout.ready(old)
    assert rollout.trial is not None


def test_what_was_refused_is_not_tried_again_until_it_changes_or_a_person_asks():
    rollout = serving()
    rollout.prepared(NEW, serving=True, reload=False)
    rollout.refuse()
    assert (rollout.current.program, rollout.trial, rollout.rolling) == (OLD, None, False)
    assert rollout.prepared(NEW, serving=True, reload=False) is Step.NOTHING
    assert rollout.prepared(program("newer"), serving=True, reload=False) is Step.TRY
    rollout.refuse()
    assert rollout.prepared(program("newer"), serving=True, reload=True) is Step.TRY


def test_a_change_that_is_taken_back_ends_its_trial():
    rollout = serving()
    before = rollout.current
    rollout.prepared(NEW, serving=True, reload=False)
    tried = rollout.trial.number
    assert rollout.prepared(OLD, serving=True, reload=False) is Step.NOTHING
    assert (rollout.wanted, rollout.trial) == (before, None)
    assert not rollout.ready(tried), "a worker of it that gets READY late is no proof of anything"


def test_a_reload_is_the_same_program_under_a_new_number():
    rollout = serving()
    before = rollout.current.number
    assert rollout.prepared(OLD, serving=True, reload=True) is Step.TRY
    assert rollout.trial.number > before
    assert rollout.ready(rollout.trial.number)
    rollout.done()
    assert not rollout.ready(rollout.current.number), "it is told once"


def test_the_same_change_seen_twice_is_tried_once():
    rollout = serving()
    rollout.prepared(NEW, serving=True, reload=False)
    tried = rollout.trial
    assert rollout.prepared(NEW, serving=True, reload=False) is Step.NOTHING
    assert rollout.trial is tried
