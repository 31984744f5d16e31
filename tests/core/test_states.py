"""What is not in the table cannot happen, and what is in it makes sense as a whole."""

from itertools import product

import pytest

from lab.core.errors import IllegalTransitionError
from lab.core.states import LIVE, TRANSITIONS, WorkerState, advance

S = WorkerState


@pytest.mark.parametrize(("old", "new"), product(S, S), ids=lambda state: state.value)
def test_a_step_is_taken_if_and_only_if_the_table_has_it(old: WorkerState, new: WorkerState) -> None:
    if new in TRANSITIONS[old]:
        assert advance(old, new) is new
    else:
        with pytest.raises(IllegalTransitionError, match=f"from {old} to {new}"):
            advance(old, new)


def test_every_state_is_in_the_table_and_can_be_reached_from_pending() -> None:
    reached, edge = {S.PENDING}, {S.PENDING}
    while edge := {after for state in edge for after in TRANSITIONS[state]} - reached:
        reached |= edge
    assert reached == set(TRANSITIONS) == set(S)


def test_requests_come_only_after_starting_and_a_process_ends_only_in_exited() -> None:
    assert {state for state in S if S.READY in TRANSITIONS[state]} == {S.STARTING, S.UNHEALTHY}
    assert all(TRANSITIONS[state] <= LIVE | {S.EXITED} for state in LIVE)


def test_a_process_exists_only_after_starting() -> None:
    assert {state for state in set(S) - LIVE if TRANSITIONS[state] & LIVE} == {S.PENDING}
    assert TRANSITIONS[S.PENDING] & LIVE == {S.STARTING}


def test_a_stop_is_never_undone() -> None:
    stopping = {S.DRAINING, S.STOPPING, S.KILLING}
    assert all(TRANSITIONS[state] <= stopping | {S.EXITED} for state in stopping)


def test_every_live_state_may_end_at_any_moment() -> None:
    assert all(S.EXITED in TRANSITIONS[state] for state in LIVE)
