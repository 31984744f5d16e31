"""Mode Lab as a person uses it: keys and clicks in, commands to the lab, and what can be read on the screen."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
from fake_lab import FakeLab, FakeWorker
from msgspec.structs import replace
from reading import seen
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Input

from lab.core.errors import NoLabError
from lab.core.events import EventKind
from lab.core.model import AppSpec, Contract
from lab.core.snapshot import Invariants
from lab.core.states import EndpointHealth
from lab.engine.lab import LabSpec
from lab.tui.app import LOST, CgilabApp
from lab.tui.screens.command_line import CommandLine
from lab.tui.screens.explain import Explain
from lab.tui.widgets.charts import LatencyChart, RateChart
from lab.tui.widgets.endpoint_table import EndpointTable
from lab.tui.widgets.event_log import EventLog
from lab.tui.widgets.flow import Flow
from lab.tui.widgets.key_bar import KeyBar
from lab.tui.widgets.photo_finish import PhotoFinish
from lab.tui.widgets.said import Banner, Said
from lab.tui.widgets.status import StatusBar
from lab.tui.widgets.worker_table import WorkerTable

SMALL, LARGE = (80, 24), (170, 50)


class Screen:
    """An open lab screen, driven by `Pilot`."""

    def __init__(self, lab: FakeLab, app: CgilabApp, pilot: Pilot[None]) -> None:
        self.lab, self.app, self.pilot = lab, app, pilot

    async def look(self) -> None:
        """Let the screen catch up with the lab."""
        await self.app.bridge.poll()
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        """Press keys, and see what came of them."""
        await self.pilot.press(*keys)
        for order in [worker for worker in self.app.workers if worker.name != "bridge"]:
            await order.wait()
        await self.look()

    def read(self, kind: type[Widget]) -> str:
        return seen(self.app.screen_stack[0].query_one(kind))


@asynccontextmanager
async def opened(lab: FakeLab | None = None, size: tuple[int, int] = SMALL, **options: bool) -> AsyncIterator[Screen]:
    lab = lab or FakeLab()
    lab.advance(1)
    app = CgilabApp(lab, **options)
    async with app.run_test(size=size) as pilot:
        screen = Screen(lab, app, pilot)
        await screen.look()
        yield screen


async def test_it_opens_on_the_workers_with_the_cursor_on_the_first() -> None:
    async with opened() as screen:
        lines = screen.read(WorkerTable).splitlines()
        assert lines[1].startswith("> search/0")
        assert isinstance(screen.app.focused, WorkerTable)


async def test_kill_hits_the_selected_worker_and_the_photo_finish_stays_until_the_next_key() -> None:
    async with opened() as screen:
        await screen.press("down", "k")
        assert screen.lab.worker("search", 1).pid == 4126
        assert screen.read(Said) == "SIGKILL to search/1 (pid 4122)"
        assert "forked 4126" in screen.read(PhotoFinish)
        screen.lab.advance(30)
        await screen.look()
        assert "forked 4126" in screen.read(PhotoFinish)
        await screen.press("up")
        assert not screen.app.screen.query_one(PhotoFinish).display


async def test_a_death_before_the_screen_opened_is_no_news() -> None:
    lab = FakeLab()
    await lab.signal("search/1")
    async with opened(lab) as screen:
        assert "died: SIGKILL" in screen.read(EventLog)
        assert not screen.app.screen.query_one(PhotoFinish).display


async def test_a_death_right_after_the_screen_came_back_is_news() -> None:
    async with opened() as screen:
        await screen.pilot.press("2", "1")
        screen.lab.clock.advance(0.1)
        await screen.pilot.press("k")
        screen.lab.clock.advance(0.1)
        await screen.look()
        assert "forked 4126" in screen.read(PhotoFinish)


@pytest.mark.parametrize(("key", "signal"), [("k", "SIGKILL"), ("t", "SIGTERM"), ("z", "SIGSTOP")])
async def test_each_strike_sends_its_signal(key: str, signal: str) -> None:
    async with opened() as screen:
        await screen.press(key)
        assert screen.read(Said) == f"{signal} to search/0 (pid 4121)"


async def test_freeze_thaws_a_frozen_worker() -> None:
    async with opened() as screen:
        await screen.press("z")
        assert screen.lab.worker("search", 0).stopped
        assert "z Thaw" in screen.read(KeyBar)
        await screen.press("z")
        assert not screen.lab.worker("search", 0).stopped


async def test_a_whole_app_is_hit_only_when_armed_and_only_once() -> None:
    async with opened() as screen:
        await screen.press("a")
        assert "ARMED: the next k, t or z hits every worker of search" in screen.read(Banner)
        await screen.press("k")
        assert [worker.generation for worker in screen.lab.apps[0].workers] == [2, 2, 2]
        assert [worker.generation for worker in screen.lab.apps[1].workers] == [1, 1]
        assert not screen.app.screen.query_one(Banner).display
        await screen.press("k")
        assert [worker.generation for worker in screen.lab.apps[0].workers] == [3, 2, 2]


async def test_moving_to_another_worker_disarms() -> None:
    async with opened() as screen:
        await screen.press("a", "down", "k")
        assert [worker.generation for worker in screen.lab.apps[0].workers] == [1, 2, 1]


async def test_no_column_hides_behind_the_scroll_bar() -> None:
    async with opened() as screen:
        await screen.lab.scale("search", 20)
        await screen.look()
        table = screen.app.screen.query_one(WorkerTable)
        assert table.show_vertical_scrollbar
        for y in range(table.size.height):
            assert table.render_line(y).cell_length == table.scrollable_content_region.width


async def test_a_strike_at_many_takes_no_more_room_than_it_needs() -> None:
    async with opened() as screen:
        await screen.press("a", "k")
        assert screen.read(Said) == "SIGKILL to 3 workers of search: 4121, 4122, 4123"


async def test_a_death_and_its_healing_in_one_column_are_marked_as_a_death() -> None:
    async with opened(size=LARGE) as screen:
        await screen.press("k")
        screen.lab.advance(1)
        await screen.look()
        assert "✗" in screen.read(LatencyChart).splitlines()[1]


async def test_two_quick_presses_scale_by_two() -> None:
    async with opened() as screen:
        await screen.press("plus", "plus")
        assert len(screen.lab.apps[0].workers) == 5


async def test_scale_goes_one_up_and_down_and_never_below_none() -> None:
    async with opened() as screen:
        await screen.press("plus")
        assert len(screen.lab.apps[0].workers) == 4
        for _ in range(6):
            await screen.press("minus")
        assert len(screen.lab.apps[0].workers) == 0
        assert len(screen.lab.apps[1].workers) == 2
        assert "> search       · no workers" in screen.read(WorkerTable)
        await screen.press("plus")
        assert len(screen.lab.apps[0].workers) == 1


async def test_under_another_policy_plus_and_minus_change_the_most_that_there_may_be() -> None:
    async with opened() as screen:
        await screen.lab.set("search", {"policy": "dynamic"})
        await screen.press("plus")
        assert screen.read(Said) == "search: max_workers 3 -> 4"
        await screen.press("minus", "minus")
        assert screen.lab.apps[0].spec.pool.max_workers == 2


async def test_heal_all_mends_what_was_broken() -> None:
    async with opened() as screen:
        screen.lab.back_off("search", 2, 30, "three deaths in 4 s")
        await screen.press("z", "H")
        assert screen.read(Said) == "Healed 2 processes."


async def test_a_request_shows_who_answered_and_how_fast() -> None:
    async with opened() as screen:
        await screen.press("r")
        assert screen.read(Said) == "200  pid 4121  0.6 ms"


async def test_own_traffic_stops_and_comes_back_at_its_rate() -> None:
    async with opened() as screen:
        await screen.press("p")
        assert "own" not in screen.read(StatusBar)
        await screen.press("p")
        assert "+ 5/s own" in screen.read(StatusBar)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_15_tunnels_stand_in_the_header_while_there_are_any(size: tuple[int, int]) -> None:
    async with opened(size=size) as screen:
        assert "tunnels" not in screen.read(StatusBar)
        screen.lab.tunnels = 3
        await screen.look()
        assert "tunnels 3 (3.0 M)" in screen.read(StatusBar)


async def test_a_click_on_a_key_does_what_the_key_does() -> None:
    async with opened(size=LARGE) as screen:
        place = screen.read(KeyBar).index("Kill")
        await screen.pilot.click("#chaos", offset=(place + 1, 0))
        await screen.press("down")
        assert screen.lab.worker("search", 0).generation == 2


async def test_a_click_on_a_row_selects_its_worker() -> None:
    async with opened() as screen:
        await screen.pilot.click(WorkerTable, offset=(3, 4))
        await screen.press("k")
        assert screen.lab.worker("auth", 0).generation == 2


async def test_the_cursor_stays_on_its_slot_when_rows_appear_above_it() -> None:
    async with opened() as screen:
        await screen.press("down", "down", "down")
        await screen.lab.scale("search", 9)
        await screen.look()
        await screen.press("k")
        assert screen.lab.worker("auth", 0).generation == 2


async def test_a_cursor_below_the_last_row_in_sight_scrolls_it_into_sight() -> None:
    lab = FakeLab()
    lab.apps[0].workers = [FakeWorker(slot, 5000 + slot) for slot in range(500)]
    async with opened(lab) as screen:
        await screen.press("end")
        assert "> auth/1" in screen.read(WorkerTable)
        await screen.press("home")
        assert "> search/0" in screen.read(WorkerTable)


async def test_where_room_is_short_one_pane_shows_at_a_time() -> None:
    async with opened() as screen:
        kinds: list[type[Widget]] = [WorkerTable, Flow, RateChart]
        for key, shown in (("f", Flow), ("c", RateChart), ("w", WorkerTable)):
            await screen.press(key)
            visible = [kind for kind in kinds if screen.app.screen.query_one(kind).size.height > 0]
            assert visible == [shown]
        assert screen.read(EventLog).startswith("EVENTS")


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_beliefs_stand_beside_what_the_kernel_says_with_a_line_where_they_differ(size: tuple[int, int]) -> None:
    async with opened(size=size) as screen:
        await screen.press("down", "z", "b")
        table = screen.read(EndpointTable)
        assert "search/1" in table
        assert table.count("!") == 2
        assert "The balancer would choose it, but its process is stopped." in table
        assert "3 connections wait in its accept queue" in table
        assert screen.app.screen.query_one(WorkerTable).size.height == 0
        await screen.press("z")
        assert "!" not in screen.read(EndpointTable)
        await screen.press("w")
        assert screen.app.screen.query_one(EndpointTable).size.height == 0
        assert "search/1" in screen.read(WorkerTable)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_21_why_a_worker_is_held_back_is_told_whole(size: tuple[int, int]) -> None:
    async with opened(size=size) as screen:
        await screen.press("b")
        standing, *_ = await screen.lab.standings()
        why = "did not answer GET /health within 0.3 s"
        unwell = replace(standing.believed, health=EndpointHealth.UNHEALTHY, why=why)
        screen.app.screen.query_one(EndpointTable).show([replace(standing, believed=unwell)])
        table = screen.read(EndpointTable)
        assert "unhealthy" in table
        assert why in table


async def test_beliefs_of_a_lab_that_went_away_stay_as_they_were() -> None:
    async with opened() as screen:
        await screen.press("b")
        before = screen.read(EndpointTable).rstrip()
        screen.lab.gone = NoLabError("The lab went away.")
        await screen.look()
        assert screen.read(EndpointTable).rstrip() == before


async def test_where_there_is_room_everything_shows() -> None:
    async with opened(size=LARGE) as screen:
        for kind in (StatusBar, Flow, WorkerTable, LatencyChart, RateChart, EventLog, KeyBar):
            assert screen.app.screen.query_one(kind).size.height > 0


async def test_in_ten_rows_there_is_a_worker_and_what_came_last() -> None:
    async with opened(size=(40, 10)) as screen:
        assert "search/0" in screen.read(WorkerTable)
        assert screen.app.screen.query_one(EventLog).size.height == 2


async def test_arming_leaves_every_key_its_place() -> None:
    async with opened() as screen:
        await screen.press("a")
        assert "Disarm" in screen.read(KeyBar)
        assert "p Own off" in screen.read(KeyBar)


async def test_the_question_mark_explains_the_part_under_the_focus() -> None:
    async with opened() as screen:
        await screen.pilot.press("f", "question_mark")
        assert isinstance(screen.app.screen, Explain)
        assert screen.app.screen._text == Flow.HELP
        await screen.pilot.press("k")
        assert not isinstance(screen.app.screen, Explain)
        assert screen.lab.worker("search", 0).generation == 1


async def test_the_question_mark_explains_the_photo_finish_while_it_is_shown() -> None:
    async with opened() as screen:
        await screen.press("k")
        await screen.pilot.press("question_mark")
        assert isinstance(screen.app.screen, Explain)
        assert screen.app.screen._text == PhotoFinish.HELP


async def test_the_command_line_runs_a_command_and_tells_usage_when_it_is_wrong() -> None:
    async with opened() as screen:
        await screen.pilot.press("colon", *"kill auth/1")
        assert isinstance(screen.app.screen, CommandLine)
        await screen.press("enter")
        assert screen.lab.worker("auth", 1).generation == 2
        await screen.pilot.press("colon", *"scale")
        await screen.press("enter")
        assert screen.read(Said) == "Found 'scale'; expected: scale APP N."


async def test_settings_are_changed_and_listed_on_the_command_line() -> None:
    async with opened() as screen:
        await screen.pilot.press("colon", *"set search selection=least_connections")
        await screen.press("enter")
        assert screen.read(Said) == "search: selection round_robin -> least_connections"
        await screen.pilot.press("colon", *"set search")
        await screen.press("enter")
        assert isinstance(screen.app.screen, Explain)
        assert "selection=least_connections" in screen.app.screen._text
        assert "max_workers=3" in screen.app.screen._text


async def test_a_reload_is_ordered_on_the_command_line() -> None:
    async with opened() as screen:
        await screen.pilot.press("colon", *"reload auth")
        await screen.press("enter")
        assert screen.read(Said) == "auth is being reloaded, worker by worker"
        assert screen.lab.worker("auth", 0).generation == 2


async def test_keys_typed_into_the_command_line_are_no_commands() -> None:
    async with opened() as screen:
        await screen.pilot.press("colon", "k", "q")
        assert screen.app.screen.query_one(Input).value == "kq"
        await screen.press("escape")
        assert screen.lab.worker("search", 0).generation == 1


@pytest.mark.parametrize(
    ("keys", "copied"),
    [
        (["down"], "kill -9 4122"),
        (["f"], "curl 'http://127.0.0.1:8080/api/search'"),
        (["c"], "cgilab status --json"),
    ],
)
async def test_copy_takes_the_command_of_the_part_under_the_focus(keys: list[str], copied: str) -> None:
    async with opened() as screen:
        await screen.press(*keys, "y")
        assert screen.app.clipboard == copied
        assert screen.read(Said).endswith(copied)


async def test_a_read_only_lab_says_so_loudly_and_why_nothing_happened() -> None:
    async with opened(FakeLab(read_only=True)) as screen:
        assert "READ-ONLY" in screen.read(Banner)
        await screen.press("k")
        assert screen.read(Said) == "This lab is read-only; nothing was changed."
        assert screen.lab.worker("search", 0).generation == 1


async def test_a_port_that_was_not_the_one_asked_for_is_loud_in_every_mode_for_a_minute() -> None:
    lab = FakeLab()
    lab.ring.emit(EventKind.LISTENING, "listening elsewhere", data={"url": "http://127.0.0.1:8080", "asked": 80})
    async with opened(lab) as screen:
        assert "PORT 80 IS IN USE: this lab is at http://127.0.0.1:8080" in screen.read(Banner)
        await screen.press("2")
        assert "PORT 80" in screen.read(Banner)
        lab.advance(61)
        await screen.look()
        assert "PORT 80" not in screen.read(Banner)


async def test_read_only_is_a_loud_banner_in_every_mode() -> None:
    async with opened(read_only=True) as screen:
        assert "READ-ONLY" in screen.read(Banner)
        await screen.press("2")
        assert "READ-ONLY" in screen.read(Banner)


async def test_what_is_announced_before_there_is_a_screen_is_on_the_first_one() -> None:
    app = CgilabApp(FakeLab())
    app.announce("test", "SAID EARLY")
    async with app.run_test(size=SMALL) as pilot:
        await app.bridge.poll()
        await pilot.pause()
        assert "SAID EARLY" in seen(app.screen.query_one(Banner))


async def test_a_lab_that_went_away_is_a_loud_banner_and_not_the_end() -> None:
    async with opened() as screen:
        screen.lab.gone = NoLabError("The lab went away.", "Start one: cgilab")
        await screen.press("k")
        assert "THE LAB DOES NOT ANSWER: The lab went away. Start one: cgilab" in screen.read(Banner)
        screen.lab.gone = None
        await screen.look()
        assert not screen.app.screen.query_one(Banner).display


@pytest.mark.parametrize(("gone", "code"), [(None, 0), (NoLabError("The lab went away."), LOST)])
async def test_quit_tells_whether_the_lab_was_still_there(gone: NoLabError | None, code: int) -> None:
    async with opened() as screen:
        screen.lab.gone = gone
        await screen.look()
        await screen.pilot.press("q")
    assert screen.app.return_code == code


async def test_ctrl_c_tells_how_to_leave() -> None:
    async with opened() as screen:
        await screen.press("ctrl+c")
        assert screen.read(Said) == "q quits, and stops every worker."


async def test_a_broken_invariant_is_loud() -> None:
    lab = FakeLab()
    lab.invariants = Invariants(conserved=False, no_zombies=False, within_bounds=True)
    async with opened(lab) as screen:
        first = screen.read(StatusBar).splitlines()[0]
        assert "✗ NOT CONSERVED" in first
        assert "● 5 hold" in first


async def test_everything_with_a_key_is_in_the_palette() -> None:
    async with opened() as screen:
        titles = [command.title for command in screen.app.get_system_commands(screen.app.screen)]
        names = set(titles)
        assert len(titles) == len(names)
        wanted = {"Kill", "Term", "Freeze or thaw", "One worker fewer", "One worker more", "Heal all", "Arm", "Quit"}
        assert wanted <= names


async def test_events_overwritten_unread_are_told() -> None:
    async with opened() as screen:
        for number in range(10_500):
            screen.lab.ring.emit(EventKind.NOTE, f"note {number}")
        await screen.look()
        assert screen.read(EventLog).splitlines()[0] == "EVENTS  500 came too fast to be read here"
        assert screen.app.screen.query_one(EventLog).count == 500


async def test_an_event_is_told_to_its_end_however_long_it_is() -> None:
    async with opened() as screen:
        why = "search goes on with what it had: search.c does not compile: search.c:14:10: expected ; before } token"
        screen.lab.ring.emit(EventKind.RELOAD, why, app="search", data={"step": "refused"})
        await screen.look()
        lines = screen.read(EventLog).splitlines()
        assert " ".join(line[15:] for line in lines[-2:]) == why
        await screen.press("e", "y")
        assert screen.app.clipboard.endswith(why)


async def test_a_slow_request_is_told_with_what_its_worker_was_doing() -> None:
    async with opened(size=LARGE) as screen:
        stack = [
            "Thread 4121 (idle)",
            "sleep (time.py:1)",
            "answer (sleepy.py:19)",
            "do_GET (worker.py:38)",
            "main (a.py:1)",
        ]
        data = {"stack": stack, "seen_by": "py-spy"}
        screen.lab.ring.emit(EventKind.SLOW, "search/0 has been busy with GET / for 2.0 s", app="search", data=data)
        await screen.look()
        told = " ".join(line[15:] for line in screen.read(EventLog).splitlines())
        assert "for 2.0 s, in sleep (time.py:1) < answer (sleepy.py:19) < do_GET (worker.py:38) (py-spy)" in told


async def test_ordinary_steps_of_a_process_beside_the_pool_are_left_out_and_its_failures_are_red() -> None:
    async with opened() as screen:
        for state, text in (("starting", "redis is starting"), ("unhealthy", "redis is not healthy: no answer")):
            screen.lab.ring.emit(EventKind.SERVICE, text, data={"name": "redis", "from": "waiting", "to": state})
        await screen.look()
        log = screen.app.screen.query_one(EventLog)
        assert "redis is starting" not in screen.read(EventLog)
        assert log.line(log.count - 1, 80)[1] == ("redis is not healthy: no answer", "bad")


async def test_a_worker_that_was_asked_to_go_is_no_fault_on_the_charts() -> None:
    async with opened(size=LARGE) as screen:
        await screen.press("minus")
        screen.lab.advance(1)
        await screen.look()
        assert "✗" not in screen.read(LatencyChart)


async def test_figures_of_a_program_are_in_its_row_and_the_screen_says_why_it_cannot_be_killed() -> None:
    desired = AppSpec(name="guests", route="/guests", language="bash", source="/lab/g.sh", protocol=Contract.CGI)
    async with opened(FakeLab(LabSpec(apps=(desired,))), size=LARGE) as screen:
        (row,) = [line for line in screen.read(WorkerTable).splitlines() if "guests" in line]
        assert row.split() == [">", "guests", "·", "a", "process", "per", "request", "317", "2.0", "ms", "12", "ms"]
        for key in ("k", "a"):
            await screen.press("r", key)
            assert screen.read(Said) == "guests has no worker to act on: a process per request."
        assert not screen.app.screen.query_one(Banner).display


async def test_long_names_keep_their_slots_and_leave_room_for_the_state() -> None:
    desired = AppSpec(name="a-very-long-name-of-an-app", route="/a", language="c", source="/lab/a.c")
    for size in (SMALL, LARGE):
        async with opened(FakeLab(LabSpec(apps=(desired,))), size=size) as screen:
            rows = screen.read(WorkerTable).splitlines()[1:3]
            assert rows[0].split()[:5] == [">", "a-very-long-name-o…/0", "4121", "●", "ready"]
            assert rows[1].split()[:4] == ["a-very-long-name-o…/1", "4122", "●", "ready"]


class Watched(WorkerTable):
    """A table that notes which rows it paints again."""

    def __init__(self) -> None:
        super().__init__()
        self.again: list[int] = []

    def refresh_rows(self, numbers: Iterable[int]) -> None:
        fresh = list(numbers)
        self.again += fresh
        super().refresh_rows(fresh)


class WatchedApp(App[None]):
    def compose(self) -> ComposeResult:
        yield Watched()


async def test_only_rows_that_look_different_are_painted_again() -> None:
    app, lab = WatchedApp(), FakeLab(rate=0)
    async with app.run_test(size=SMALL) as pilot:
        table = app.query_one(Watched)
        for _ in range(2):
            table.show(await lab.snapshot())
            await pilot.pause()
        table.again.clear()
        lab.clock.advance(0.2)  # all of them are older now, which no narrow table shows
        table.show(await lab.snapshot())
        assert table.again == []
        lab.worker("search", 1).generation = 2
        table.show(await lab.snapshot())
        assert table.again == [1]


@pytest.mark.parametrize("size", [(1, 1), (20, 6), (40, 12), (79, 23), (119, 35), (120, 36), (300, 100)])
async def test_no_size_breaks_the_screen(size: tuple[int, int]) -> None:
    lab = FakeLab()
    lab.apps[0].unavailable = "no C compiler"
    lab.apps[1].workers, lab.apps[1].waits_for = [], ("redis",)
    async with opened(lab, size=size) as screen:
        await screen.press("f", "c", "w", "k", "e")
        await screen.pilot.resize_terminal(90, 30)
        await screen.look()
