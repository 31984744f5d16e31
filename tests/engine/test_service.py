"""The life of a process beside the pool, step by step, without a process."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.backoff import Backoff
from lab.core.errors import IllegalTransitionError
from lab.core.model import Restart, ServiceSpec
from lab.core.states import ServiceState as S
from lab.engine.service import STABLE_AFTER, Action, Service, ending

BACKOFF = Backoff(initial=1, maximum=8, jitter=0)


def service(**keys: Any) -> Service:
    spec = msgspec.convert({"name": "p", "command": ["p"], **keys}, ServiceSpec)
    return Service(spec, random.Random(0), BACKOFF)


def healthy(**keys: Any) -> Service:
    """A service that became healthy at time 0."""
    one = service(**keys)
    assert one.begin() == (Action.START,)
    assert one.started(7, 0.0) == (Action.CHECK,)
    assert one.checked("", 0.0) == ()
    assert one.state is S.HEALTHY
    return one


def test_it_is_healthy_when_a_check_has_passed_and_not_before() -> None:
    one = service()
    one.waits_for(("redis", "db"))
    assert (one.state, one.why) == (S.WAITING, "It waits for redis and db to be healthy.")
    one.begin()
    assert (one.state, one.pid, one.is_alive) == (S.STARTING, None, True)
    one.started(7, 0.0)
    assert one.checked("does not listen", 0.1) == ()
    assert (one.state, one.why) == (S.STARTING, "It does not listen.")
    one.checked("", 0.2)
    assert (one.state, one.why, one.pid) == (S.HEALTHY, "", 7)


@pytest.mark.parametrize(
    ("restart", "status", "state"),
    [
        (Restart.NEVER, 0, S.STOPPED),
        (Restart.NEVER, 1, S.STOPPED),
        (Restart.ON_FAILURE, 0, S.STOPPED),
        (Restart.ON_FAILURE, 1, S.WAITING),
        (Restart.ON_FAILURE, -9, S.WAITING),
        (Restart.ALWAYS, 0, S.WAITING),
        (Restart.ALWAYS, -15, S.WAITING),
    ],
)
def test_restart_decides_what_follows_an_end(restart: Restart, status: int, state: S) -> None:
    one = healthy(restart=restart)
    assert one.exited(status, STABLE_AFTER) == ()
    assert (one.state, one.pid, one.why) == (state, None, f"It ended: {ending(status)}.")


def test_ends_before_or_soon_after_it_was_healthy_wait_longer_each_time() -> None:
    one = service()
    delays = []
    for turn in range(6):
        one.begin()
        one.started(7, 0.0)
        if turn % 2:
            one.checked("", 0.0)
        assert one.exited(1, STABLE_AFTER / 2) == (Action.RETRY,)
        assert one.state is S.BACKOFF
        delays.append(one.delay)
        one.retry()
        assert one.state is S.WAITING
    assert delays == [1, 2, 4, 8, 8, 8]
    assert one.restarts == 5


def test_an_end_after_it_was_stable_forgets_the_failures_before() -> None:
    one = service()
    one.begin()
    one.started(7, 0.0)
    one.exited(1, 0.0)
    one.retry()
    one.begin()
    one.started(8, 0.0)
    one.checked("", 0.0)
    one.exited(1, STABLE_AFTER)
    assert (one.state, one.delay) == (S.WAITING, 0)


def test_it_is_unhealthy_after_so_many_failed_checks_in_a_row() -> None:
    one = healthy(health={"fall": 2}, restart="never")
    one.checked("does not answer", 1.0)
    one.checked("", 2.0)
    one.checked("does not answer", 3.0)
    assert one.state is S.HEALTHY
    assert one.checked("does not answer", 4.0) == ()
    assert (one.state, one.why) == (S.UNHEALTHY, "It does not answer.")
    one.checked("", 5.0)
    assert (one.state, one.why) == (S.HEALTHY, "")


@pytest.mark.parametrize("restart", [Restart.ON_FAILURE, Restart.ALWAYS])
def test_one_that_is_unhealthy_is_stopped_and_started_again_if_it_may_be(restart: Restart) -> None:
    one = healthy(health={"fall": 1}, restart=restart)
    assert one.checked("does not answer", 5.0) == (Action.GIVE_UP,)
    assert one.give_up() == (Action.STOP,)
    assert one.checked("", 6.0) == ()
    one.exited(0, 6.0)  # it obeyed: that makes it no success
    assert (one.state, one.why) == (S.WAITING, "It does not answer.")


def test_one_that_is_not_healthy_in_time_counts_as_failed() -> None:
    one = service(health={"start_timeout": 3})
    one.begin()
    one.started(7, 0.0)
    one.checked("does not listen", 1.0)
    assert one.overdue() == (Action.STOP,)
    assert (one.state, one.why) == (S.STOPPING, "It was not healthy within 3 s: it does not listen.")
    assert one.exited(0, 4.0) == (Action.RETRY,)
    assert one.state is S.BACKOFF


def test_being_overdue_means_nothing_once_it_was_healthy() -> None:
    one = healthy()
    assert one.overdue() == ()
    assert one.state is S.HEALTHY


def test_a_program_that_cannot_be_run_is_tried_again_later() -> None:
    one = service()
    one.begin()
    assert one.refused("Cannot start p.", 0.0) == (Action.RETRY,)
    assert (one.state, one.why) == (S.BACKOFF, "Cannot start p.")
    never = service(restart="never")
    never.begin()
    assert never.refused("Cannot start p.", 0.0) == ()
    assert never.state is S.STOPPED


def test_a_stop_is_final_whatever_restart_says() -> None:
    one = healthy(restart="always")
    assert one.stop() == (Action.STOP,)
    assert one.stop() == ()
    assert one.exited(1, 9.0) == ()
    assert (one.state, one.why) == (S.STOPPED, "It ended: exit code 1.")


def test_a_stop_while_it_is_being_forked_comes_as_soon_as_there_is_a_process() -> None:
    one = service()
    one.begin()
    assert one.stop() == ()
    assert one.started(7, 0.0) == (Action.STOP,)
    one.exited(-15, 0.1)
    assert one.state is S.STOPPED


def test_a_stop_while_it_cannot_be_forked_ends_it() -> None:
    one = service()
    one.begin()
    one.stop()
    assert one.refused("Cannot start p.", 0.0) == ()
    assert one.state is S.STOPPED


@pytest.mark.parametrize("waits", ["for others", "in back-off"])
def test_a_stop_of_one_that_waits_is_immediate(waits: str) -> None:
    one = service()
    if waits == "in back-off":
        one.begin()
        one.refused("Cannot start p.", 0.0)
    assert one.stop() == ()
    assert one.state is S.STOPPED
    assert one.retry() == ()
    assert one.state is S.STOPPED


def test_what_cannot_happen_is_refused() -> None:
    one = healthy()
    with pytest.raises(IllegalTransitionError, match="from healthy to starting"):
        one.begin()


STEPS = st.lists(st.sampled_from(["begin", "fork", "refuse", "well", "unwell", "overdue", "exit", "stop", "retry"]))


@given(STEPS, st.sampled_from(Restart))
def test_whatever_happens_a_stop_is_final_and_nothing_runs_unseen(steps: list[str], restart: Restart) -> None:
    """Only steps that can happen are taken: a process ends once, and is asked for before it is there."""
    one = service(restart=restart, health={"fall": 1})
    asked = runs = stopped = False
    now = 0.0
    for step in steps:
        now += 1.0
        actions: tuple[Action, ...] = ()
        if step == "begin" and one.state is S.WAITING:
            actions = one.begin()
        elif step == "fork" and asked:
            asked, runs = False, True
            actions = one.started(7, now)
        elif step == "refuse" and asked:
            asked = False
            actions = one.refused("no", now)
        elif step in ("well", "unwell") and runs:
            actions = one.checked("" if step == "well" else "is unwell", now)
        elif step == "overdue" and runs:
            actions = one.overdue()
        elif step == "exit" and runs:
            runs = False
            actions = one.exited(1, now)
        elif step == "stop":
            stopped = True
            actions = one.stop()
        elif step == "retry":
            actions = one.retry()
        if Action.GIVE_UP in actions:
            actions = one.give_up()
        asked = asked or Action.START in actions
        assert one.is_alive == (asked or runs)
        assert not (stopped and Action.START in actions)
        assert (one.state is S.STOPPED) or not stopped or one.is_alive
