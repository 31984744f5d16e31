"""The picture of the way of a request, at every width, in every state."""

import pytest
from fake_lab import FakeLab, FakeWorker
from reading import read

from lab.core.states import WorkerState
from lab.tui import glyphs
from lab.tui.widgets.cells import bar
from lab.tui.widgets.flow import Flow

WIDTHS = (0, 1, 20, 38, 63, 64, 80, 100, 170)


async def picture(lab: FakeLab, width: int = 100, flow: Flow | None = None, since: int = 1) -> str:
    drawn = flow or Flow()
    drawn.show(await lab.snapshot(), (await lab.events(since)).events)
    return "\n".join(read(drawn.rows(width)))


async def test_every_worker_is_named_by_its_pid_and_state() -> None:
    lab = FakeLab()
    lab.advance(1)
    shown = await picture(lab)
    assert all(f"● {pid}" in shown for pid in (4121, 4122, 4123, 4124, 4125))


async def test_a_killed_worker_is_seen_beside_its_successor_and_forgotten_after_three_seconds() -> None:
    lab, flow = FakeLab(), Flow()
    await picture(lab, flow=flow)
    begin = lab.ring.next
    await lab.signal("search/1")
    assert "✗ 4122 ─▶ ● 4126" in await picture(lab, flow=flow, since=begin)
    lab.advance(3.1)
    assert "4122" not in await picture(lab, flow=flow, since=lab.ring.next)


async def test_a_worker_that_is_scaled_away_is_seen_to_go() -> None:
    lab, flow = FakeLab(), Flow()
    await lab.scale("search", 2)
    assert "✗ 4123" in await picture(lab, flow=flow)


async def test_a_waiting_slot_counts_down_and_says_why() -> None:
    lab = FakeLab()
    lab.back_off("search", 2, 0.8, "three deaths in 4 s")
    lab.advance(0.3)
    assert "waits 0.5 s: three deaths in 4 s" in await picture(lab)


async def test_a_frozen_worker_shows_what_the_balancer_still_believes() -> None:
    lab = FakeLab()
    await lab.signal("search/0", "SIGSTOP")
    assert "‖ 4121 frozen, still routed" in await picture(lab)
    lab.worker("search", 0).state = WorkerState.UNHEALTHY
    assert "‖ 4121 frozen, out" in await picture(lab)


async def test_an_app_that_cannot_run_here_says_what_would_change_that() -> None:
    lab = FakeLab()
    lab.apps[0].unavailable = "no C compiler was found. Install one: apt install gcc"
    shown = await picture(lab)
    assert "not available: no C compiler was found. Install one: apt install gcc" in shown
    assert "● 4124" in shown


async def test_an_app_that_waits_for_a_process_says_for_which() -> None:
    lab = FakeLab()
    lab.apps[0].waits_for, lab.apps[0].workers = ("redis", "db"), []
    assert "waits for redis, db" in await picture(lab)


async def test_own_requests_are_labelled_apart_and_leave_with_them() -> None:
    lab = FakeLab()
    assert "+ 5/s own" in await picture(lab)
    await lab.traffic(0)
    assert "own" not in await picture(lab)


async def test_the_worker_that_has_answered_lights_up() -> None:
    lab, flow = FakeLab(rate=0), Flow()
    await picture(lab, flow=flow)
    await lab.request("search")
    lab.clock.advance(0.2)
    flow.show(await lab.snapshot())
    lit = [text for row in flow.rows(100) for text, role in row if role == "strong" and text.isdigit()]
    assert lit == ["4121"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("state", list(WorkerState))
async def test_no_state_and_no_width_breaks_the_picture(width: int, state: WorkerState) -> None:
    lab = FakeLab()
    lab.worker("search", 1).state = state
    lab.worker("search", 2).pid = None
    lab.worker("auth", 0).why = "it answered the probe with garbage instead of a status line"
    assert await picture(lab, width)


@pytest.mark.parametrize("width", WIDTHS)
async def test_none_and_five_hundred_workers_are_drawn(width: int) -> None:
    lab = FakeLab()
    lab.apps[0].workers = [FakeWorker(slot, 1_000_000 + slot) for slot in range(500)]
    lab.apps[1].workers = []
    shown = await picture(lab, width)
    assert width < 20 or "no workers" in shown
    assert shown.count("● 1000") == 500


@pytest.mark.parametrize("width", [38, 64, 80, 100])
async def test_cells_stay_inside_the_width(width: int) -> None:
    lab = FakeLab()
    lab.advance(1)
    lab.back_off("search", 1, 30, "five failed starts in ten seconds: it exits at once with code 127")
    lab.apps[1].unavailable = "no interpreter was found for it. Install one with: apt install python3"
    assert all(len(line) <= width for line in (await picture(lab, width)).splitlines())


async def test_without_unicode_everything_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "linux")
    lab = FakeLab()
    lab.back_off("search", 1, 1, "dead")
    lab.advance(1)
    assert (await picture(lab)).isascii()


def test_a_latency_bar_grows_by_a_quarter_for_each_power_of_ten() -> None:
    bars = glyphs.UNICODE.bars
    assert [bar(ms, 4, bars).rstrip() for ms in (None, 1, 10, 100, 1000, 99999)] == [
        "",
        "█",
        "██",
        "███",
        "████",
        "████",
    ]
