"""Events become sentences that quote them, and figures that were in them."""

from lab.core.clock import ManualClock
from lab.core.events import Event, EventKind, EventRing
from lab.core.snapshot import Invariants, LabSnapshot, Totals, Traffic
from lab.core.states import Cause, WorkerState
from lab.learning.narration import Narrator, out_ms, photo
from lab.learning.observation import Observation, measure, names

HEALING = {
    "old_pid": 4121,
    "death": "SIGKILL",
    "by": "outside",
    "signal_at": None,
    "exit_at": 10.0,
    "forked_at": 10.001,
    "probe_at": 10.0224,
    "ready_at": 10.023,
    "heal_ms": 23.0,
    "lost": 1,
}


def told(*kinds: tuple[EventKind, float, dict[str, object]]) -> tuple[Event, ...]:
    """Events of search/2, at these times."""
    ring = EventRing(ManualClock())
    for kind, at, fields in kinds:
        ring.emit(kind, "text", at=at, app="search", slot=2, **{"pid": 4121, **fields})
    return ring.read(1).events


DEATH = (EventKind.STATE, 10.0, {"state": WorkerState.EXITED, "cause": Cause.KILLED, "signal": "SIGKILL"})
HEALED = (EventKind.HEALED, 10.023, {"pid": 4188, "data": HEALING})
STOPPED = (EventKind.STOPPED, 10.0, {})
UNHEALTHY = (EventKind.STATE, 11.043, {"state": WorkerState.UNHEALTHY})
OUT = (EventKind.ENDPOINT_OUT, 11.043, {})


def seen(events: tuple[Event, ...]) -> Observation:
    begun = snapshot(Totals(accepted=10, answered=9, in_flight=1))
    now = snapshot(Totals(accepted=20, answered=17, failed=3))
    return Observation(begun=begun, now=now, app="search", title="C", events=events)


def snapshot(own: Totals) -> LabSnapshot:
    return LabSnapshot(
        name="lab",
        listener="http://127.0.0.1:1",
        uptime_s=1.0,
        at=1.0,
        apps=(),
        totals=Totals(),
        own=Traffic(rate=5.0, totals=own),
        invariants=Invariants(conserved=True, no_zombies=True, within_bounds=True),
        events_next=1,
    )


def test_a_worker_that_ended_by_itself_is_not_said_to_have_been_killed() -> None:
    ended = {**HEALING, "death": "exit code 0", "by": None}
    (fact, _) = Narrator("search").tell(told((EventKind.HEALED, 10.023, {"pid": 4188, "data": ended})))
    assert fact.startswith("PID 4121 ended with exit code 0. Slot 2 was READY again")


def test_a_healing_is_told_with_who_how_and_how_long() -> None:
    facts = Narrator("search").tell(told(DEATH, HEALED))
    assert facts == [
        "PID 4121 died by SIGKILL, not sent by this lab. Slot 2 was READY again as PID 4188 after 23 ms.",
        "Lost with it: 1 request that it was answering.",
    ]


def test_other_apps_are_not_told_about() -> None:
    assert Narrator("auth").tell(told(DEATH, HEALED, STOPPED)) == []


def test_a_frozen_worker_is_told_as_kernel_and_balancer_see_it() -> None:
    thawed = ((EventKind.CONTINUED, 12.0, {}), (EventKind.ENDPOINT_IN, 12.5, {}))
    facts = Narrator("search").tell(told(STOPPED, UNHEALTHY, OUT, *thawed))
    assert [fact.split(".")[0] for fact in facts] == [
        "Kernel: 4121 is stopped",
        "Balancer: 4121 is out, 1,043 ms after it froze",
        "Kernel: 4121 runs again",
        "Balancer: 4121 answered a probe and is back in",
    ]


def test_killing_a_frozen_worker_is_not_the_balancer_noticing_it() -> None:
    events = told(STOPPED, OUT, DEATH)
    assert out_ms(events, 4121) is None
    assert not any("is out" in fact for fact in Narrator("search").tell(events))


def test_the_photo_finish_begins_with_what_was_seen_first() -> None:
    lines = list(photo(told(HEALED)[0]))
    assert lines[0] == "0.0 ms: the kernel reported the death"
    assert lines[-1] == "23 ms: READY, and back in the balancer"


def test_the_figures_of_a_step_count_from_its_beginning() -> None:
    figures = measure(seen(told(DEATH, HEALED)))
    counted = {
        key: figures.read(key) for key in ("kills", "heal_ms", "lost", "sent", "answered", "unanswered", "ended")
    }
    assert counted == {
        "kills": 1, "heal_ms": 23.0, "lost": 1, "sent": 11, "answered": 8, "unanswered": 3, "ended": 11,
    }  # fmt: skip


def test_a_replacement_is_one_of_the_app_the_cause_and_the_sender_asked_for() -> None:
    replaced = names(seen(told(DEATH, HEALED)), {}, {})["worker_replaced"]
    assert replaced(app="search", cause="killed")
    assert replaced(app="search", cause="killed", by="outside")
    assert not replaced(app="search", cause="killed", by="person")
    assert not replaced(app="search", cause="crashed")
    assert not replaced(app="auth", cause="killed")
    only_dead = names(seen(told(DEATH)), {}, {})["worker_replaced"]
    assert not only_dead(app="search", cause="killed")
