"""Point 29, the rings: which traces are kept, for how long, and how many."""

from lab.core.trace import Trace, Why
from lab.proxy.trace import A_SECOND, KEPT, Traces


def trace(identity: str, *kept: Why, at: float = 0.0) -> Trace:
    return Trace(
        id=identity,
        at=at,
        own=False,
        client="127.0.0.1",
        method="GET",
        target="/",
        route="app",
        app="app",
        status=200,
        outcome="answered",
        kept=kept,
        prepare_s=0.0,
        queue_s=0.0,
        connect_s=0.0,
        tried_s=0.0,
        worker_s=0.1,
        transfer_s=0.0,
        total_s=0.1,
        received=0,
        sent=0,
    )


def test_29_every_request_of_a_lab_has_an_identity_of_its_own():
    traces, others = Traces(), Traces()
    names = [traces.identity(number, own) for number in range(1, 100) for own in (False, True)]
    assert len(set(names)) == len(names)
    assert not set(names) & {others.identity(number, False) for number in range(1, 100)}


def test_29_the_newest_come_first_and_can_be_asked_for_by_identity_and_by_reason():
    traces = Traces()
    traces.keep(trace("a", Why.SLOW, Why.FAILED, at=1))
    traces.keep(trace("b", Why.FAILED, at=2))
    traces.keep(trace("c", Why.SAMPLED, at=3))
    assert [one.id for one in traces.read()] == ["c", "b", "a"]
    assert [one.id for one in traces.read(limit=2)] == ["c", "b"]
    assert [one.id for one in traces.read("a")] == ["a"]
    assert [one.id for one in traces.read(why=Why.FAILED)] == ["b", "a"]
    assert traces.read("d") == ()


def test_29_a_flood_of_one_kind_does_not_wash_away_another():
    traces = Traces()
    traces.keep(trace("slow one", Why.SLOW))
    for number in range(KEPT * 3):
        traces.keep(trace(f"shed {number}", Why.SHED, at=number))
    assert len(traces.read(limit=10 * KEPT)) == KEPT + 1
    assert [one.id for one in traces.read(why=Why.SLOW)] == ["slow one"]


def test_29_a_flood_gets_a_bounded_share_of_each_second():
    traces = Traces()
    assert sum(traces.wanted((Why.SHED,), 5.1) for _ in range(1000)) == A_SECOND
    assert traces.wanted((Why.SHED, Why.SLOW), 5.2)
    assert sum(traces.wanted((Why.SHED,), 6.0) for _ in range(1000)) == A_SECOND
