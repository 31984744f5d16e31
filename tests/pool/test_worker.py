"""The machine of one worker: what follows what, and how its death is judged."""

import signal

import pytest

from lab.core.errors import IllegalTransitionError
from lab.core.model import Liveness, WorkerId
from lab.core.states import Cause, WorkerState
from lab.pool.worker import Action, By, Worker

_S = WorkerState


def ready_worker() -> Worker:
    worker = Worker(WorkerId("app", 0, 1))
    assert worker.start() == (Action.FORK,)
    assert worker.forked(41, at=1.0) == (Action.PROBE,)
    assert worker.passed(at=2.0) == (Action.ROUTE,)
    return worker


def test_it_leaves_the_upstream_before_it_is_asked_to_end():
    worker = ready_worker()
    assert worker.stop(Cause.SCALED_DOWN) == (Action.UNROUTE, Action.DRAIN)
    assert worker.drained() == (Action.TERMINATE,)
    assert worker.overdue() == (Action.KILL,)
    assert worker.exited(-signal.SIGKILL, 9.0).cause is Cause.SCALED_DOWN
    assert worker.state is _S.EXITED


def test_the_first_reason_to_stop_stands():
    worker = ready_worker()
    worker.stop(Cause.RELOADED)
    assert worker.stop(Cause.STOPPED) == ()
    assert worker.intent is Cause.RELOADED


def test_a_worker_without_a_process_is_gone_as_soon_as_it_is_not_wanted():
    worker = Worker(WorkerId("app", 0, 1))
    assert worker.stop(Cause.STOPPED) == ()
    assert worker.state is _S.EXITED


def test_a_worker_that_is_being_forked_waits_for_its_process_and_stops_that():
    worker = Worker(WorkerId("app", 0, 1))
    worker.start()
    assert worker.stop(Cause.STOPPED) == ()
    assert worker.forked(41, at=1.0) == ()
    assert worker.drained() == (Action.TERMINATE,)


def test_it_is_unhealthy_after_fall_failures_in_a_row_and_ready_after_rise_passes_in_a_row():
    worker, liveness = ready_worker(), Liveness(fall=2, rise=2)
    assert worker.probed(False, 3.0, liveness) == ()
    assert worker.probed(True, 3.1, liveness) == ()
    assert worker.probed(False, 3.2, liveness) == ()
    assert worker.probed(False, 3.3, liveness) == (Action.UNROUTE,)
    assert (worker.state, worker.unhealthy_at) == (_S.UNHEALTHY, 3.3)
    assert worker.probed(True, 3.4, liveness) == ()
    assert worker.probed(False, 3.5, liveness) == ()
    assert worker.probed(True, 3.6, liveness) == ()
    assert worker.probed(True, 3.7, liveness) == (Action.ROUTE,)
    assert (worker.state, worker.unhealthy_at) == (_S.READY, None)


@pytest.mark.parametrize(
    ("ordered", "status", "cause", "by"),
    [
        ([], 3, Cause.CRASHED, By.ITSELF),
        ([], -signal.SIGSEGV, Cause.CRASHED, By.ITSELF),
        ([], -signal.SIGKILL, Cause.KILLED, By.OUTSIDE),
        ([], -signal.SIGTERM, Cause.KILLED, By.OUTSIDE),
        ([signal.SIGKILL], -signal.SIGKILL, Cause.KILLED, By.PERSON),
        ([signal.SIGSEGV], -signal.SIGSEGV, Cause.KILLED, By.PERSON),
        ([signal.SIGTERM], 0, Cause.KILLED, By.PERSON),
        ([signal.SIGUSR1], 1, Cause.CRASHED, By.ITSELF),
        ([signal.SIGSTOP, signal.SIGCONT], -signal.SIGKILL, Cause.KILLED, By.OUTSIDE),
    ],
)
def test_a_death_is_judged_by_what_was_ordered_before_it(ordered, status, cause, by):
    worker = ready_worker()
    for number in ordered:
        worker.ordered(number, at=5.0)
    death = worker.exited(status, at=6.0)
    assert (death.cause, death.by) == (cause, by)
    assert death.signal_at == (5.0 if by is By.PERSON else None)


def test_an_exit_long_after_a_signal_that_it_survived_is_its_own():
    worker = ready_worker()
    worker.ordered(signal.SIGHUP, at=5.0)
    death = worker.exited(1, at=36.0)
    assert (death.cause, death.by, death.signal_at) == (Cause.CRASHED, By.ITSELF, None)


def test_a_worker_killed_for_being_late_is_no_crash_of_its_own():
    worker = Worker(WorkerId("app", 0, 1))
    worker.start()
    worker.forked(41, at=1.0)
    assert worker.overdue() == (Action.KILL,)
    death = worker.exited(-signal.SIGKILL, at=2.0)
    assert (death.cause, death.by) == (Cause.UNHEALTHY, By.LAB)


def test_what_is_not_in_the_table_cannot_happen():
    worker = ready_worker()
    worker.exited(0, at=3.0)
    with pytest.raises(IllegalTransitionError):
        worker.passed(at=4.0)


@pytest.mark.parametrize(
    ("status", "by_person", "sentence"),
    [
        (-signal.SIGKILL, True, "died: SIGKILL (sent by you)"),
        (-signal.SIGKILL, False, "died: SIGKILL (sent from outside the lab)"),
        (1, False, "died: exit code 1"),
        (0, True, "ended: exit code 0 (after a signal sent by you)"),
        (-64, False, "died: SIGRTMAX"),
    ],
)
def test_a_death_is_told_in_plain_words(status, by_person, sentence):
    worker = ready_worker()
    if by_person:
        worker.ordered(-status or signal.SIGTERM, at=2.0)
    assert worker.exited(status, at=3.0).sentence == sentence
