"""The slowed-down picture of a healing: measured numbers, in order, at every width."""

import pytest
from fake_lab import FakeLab
from reading import read

from lab.core.clock import ManualClock
from lab.core.events import Event, EventKind, EventRing
from lab.tui.widgets.photo_finish import PhotoFinish, marks


async def healed(by: str = "person") -> Event:
    lab = FakeLab()
    if by == "outside":
        lab.kill_from_outside("search", 1)
    else:
        await lab.signal("search/1")
    return next(event for event in (await lab.events()).events if event.kind is EventKind.HEALED)


async def test_the_steps_are_milliseconds_after_the_signal() -> None:
    steps = marks(await healed())
    assert [step.label for step in steps] == ["SIGKILL", "exit seen", "forked 4126", "probe", "READY"]
    assert [round(step.ms, 1) for step in steps] == [0, 0.7, 1.4, 19, 23]


async def test_a_signal_from_outside_has_no_first_mark_and_time_runs_from_the_report() -> None:
    event = await healed("outside")
    assert marks(event)[0].label == "exit seen"
    finish = PhotoFinish()
    finish.show(event)
    assert "from the report of its death to READY" in read(finish.rows(100))[-1]


def test_a_standby_takes_over_without_a_fork_or_a_probe() -> None:
    data = {"death": "SIGKILL", "signal_at": 3.0, "exit_at": 3.0009, "ready_at": 3.0017, "lost": 0, "promoted": True}
    event = EventRing(ManualClock()).emit(EventKind.HEALED, "healed", app="search", slot=2, pid=4904, data=data)
    assert [step.label for step in marks(event)] == ["SIGKILL", "exit seen", "standby 4904 serves"]
    finish = PhotoFinish()
    finish.show(event)
    assert read(finish.rows(80))[-1] == "1.7 ms from the signal until a standby took its place · requests lost: 0"


@pytest.mark.parametrize("width", [50, 80, 100, 168])
async def test_each_mark_stands_over_its_label(width: int) -> None:
    finish = PhotoFinish()
    finish.show(await healed(), "100 ms")
    title, times, axis, labels, verdict = read(finish.rows(width))
    places = [place for place, sign in enumerate(axis) if sign == "┬"]
    assert [labels[place:].split("  ")[0] for place in places] == [
        "SIGKILL",
        "exit seen",
        "forked 4126",
        "probe",
        "READY",
    ]
    assert [times[place:].split("  ")[0].strip() for place in places] == ["0 ms", "0.7", "1.4", "19", "23"]
    assert title.startswith("search slot 1, slowed down")
    assert title.endswith("you said 100 ms")
    assert verdict == "23 ms from the signal to READY · requests lost: 0"


async def test_where_it_is_narrow_every_step_has_a_row() -> None:
    finish = PhotoFinish()
    finish.show(await healed())
    lines = read(finish.rows(38))
    assert [line.split(" ms ")[0].strip() for line in lines[1:-1]] == ["0", "0.7", "1.4", "19", "23"]
    assert all(len(line) <= 38 for line in lines[:-1])


async def test_cleared_it_takes_no_room() -> None:
    finish = PhotoFinish()
    finish.show(await healed())
    finish.clear()
    assert list(finish.rows(80)) == []


@pytest.mark.parametrize("width", [0, 20, 38, 50, 100])
@pytest.mark.parametrize(
    "data", [{}, {"ready_at": 3.0}, {"death": None, "exit_at": None, "ready_at": "soon", "lost": None}]
)
def test_a_healing_with_holes_in_it_is_still_shown(width: int, data: dict[str, object]) -> None:
    finish = PhotoFinish()
    finish.show(EventRing(ManualClock()).emit(EventKind.HEALED, "healed", data=data))
    assert "slowed down" in read(finish.rows(width))[0]
