"""The bridge: one message a look, nothing lost silently, trouble told and not raised."""

import pytest
from fake_lab import FakeLab

from lab.core.errors import LabError, NoLabError
from lab.core.events import EventKind
from lab.tui.bridge import Bridge, Polled, interval


class Reader:
    """Collects what a bridge delivers."""

    def __init__(self, lab: FakeLab) -> None:
        self.looks: list[Polled] = []
        self.troubles: list[LabError] = []
        self.bridge = Bridge(lab, self.looks.append, self.troubles.append)


async def test_each_event_is_delivered_once_and_in_order() -> None:
    lab = FakeLab()
    reader = Reader(lab)
    await reader.bridge.poll()
    await lab.signal("search/1")
    await reader.bridge.poll()
    await reader.bridge.poll()
    assert len(reader.looks) == 3
    assert [event.seq for look in reader.looks for event in look.events] == list(range(1, lab.ring.next))


async def test_events_overwritten_before_a_look_are_counted() -> None:
    lab = FakeLab()
    reader = Reader(lab)
    await reader.bridge.poll()
    for number in range(11_000):
        lab.ring.emit(EventKind.NOTE, f"note {number}")
    await reader.bridge.poll()
    assert reader.looks[-1].missed == 1_000


async def test_a_late_reader_starts_with_the_last_five_hundred_events() -> None:
    lab = FakeLab()
    for number in range(2_000):
        lab.ring.emit(EventKind.NOTE, f"note {number}")
    reader = Reader(lab)
    await reader.bridge.poll()
    assert len(reader.looks[0].events) == 500
    assert reader.looks[0].missed == 0


async def test_a_lab_that_went_away_is_told_and_found_again() -> None:
    lab = FakeLab()
    reader = Reader(lab)
    lab.gone = NoLabError("The lab went away.")
    await reader.bridge.poll()
    assert [str(error) for error in reader.troubles] == ["The lab went away."]
    lab.gone = None
    await reader.bridge.poll()
    assert len(reader.looks) == 1


async def test_rates_are_counted_second_by_second_and_kept_for_a_minute() -> None:
    lab = FakeLab(rate=100)
    reader = Reader(lab)
    for _ in range(100):
        lab.advance(1.0)
        await reader.bridge.poll()
    samples = reader.bridge.history.samples
    assert len(samples) == 60
    assert {(round(one.clients), round(one.own)) for one in samples} == {(100, 5)}


async def test_looking_again_at_the_same_instant_adds_nothing() -> None:
    lab = FakeLab()
    reader = Reader(lab)
    for _ in range(5):
        await reader.bridge.poll()
    assert not reader.bridge.history.samples


async def test_without_clients_the_latencies_are_those_of_own_requests() -> None:
    lab = FakeLab(rate=0)
    reader = Reader(lab)
    for _ in range(3):
        lab.advance(1.0)
        await reader.bridge.poll()
    assert reader.bridge.history.samples[-1].p50 == 0.6


async def test_a_death_and_its_healing_are_marked_at_their_time() -> None:
    lab = FakeLab()
    reader = Reader(lab)
    await lab.signal("search/1")
    await reader.bridge.poll()
    now = lab.clock.monotonic()
    marked = [(moment.role, round((moment.at - now) * 1000, 1)) for moment in reader.bridge.history.moments]
    assert marked == [("bad", 0.7), ("good", 23.0)]


@pytest.mark.parametrize(("environ", "seconds"), [({}, 0.2), ({"SSH_CONNECTION": "10.0.0.1 22"}, 0.5)])
def test_over_ssh_it_looks_less_often(environ: dict[str, str], seconds: float) -> None:
    assert interval(environ) == seconds
