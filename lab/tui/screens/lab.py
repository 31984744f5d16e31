"""Mode Lab: the whole lab on one screen, and the keys that break and mend it.

The screen holds nothing of its own about workers or traffic: each look of the bridge draws it anew. What a person does
becomes a command of the lab (`lab.engine.commands`), and what came of it shows like everything else that happens.
"""

import contextlib
from typing import ClassVar

from textual import getters, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Key as KeyPressed
from textual.events import ScreenResume
from textual.screen import Screen
from textual.widget import Widget

from lab.core.errors import LabError
from lab.core.events import EventKind
from lab.tui.app import CgilabApp
from lab.tui.bridge import Polled
from lab.tui.widgets.charts import Chart, LatencyChart, RateChart
from lab.tui.widgets.endpoint_table import EndpointTable
from lab.tui.widgets.event_log import EventLog
from lab.tui.widgets.flow import Flow
from lab.tui.widgets.key_bar import Key, KeyBar
from lab.tui.widgets.photo_finish import PhotoFinish
from lab.tui.widgets.said import Banner, Said
from lab.tui.widgets.status import StatusBar
from lab.tui.widgets.worker_table import Selected, WorkerTable

_FOOTER = (
    Key("1", "Lab", "app.mode('lab')"),
    Key("2", "Lessons", "app.mode('lessons')"),
    Key("w", "Table", "screen.pane('workers')"),
    Key("f", "Flow", "screen.pane('flow')"),
    Key("c", "Charts", "screen.pane('charts')"),
    Key("b", "Belief", "screen.pane('beliefs')"),
    Key("?", "Help", "app.explain"),
    Key(":", "Run", "app.command_line"),
    Key("q", "Quit", "app.quit"),
    Key("y", "Copy", "app.copy"),
    Key("^p", "Palette", "app.command_palette"),
)


class LabScreen(Screen[None]):
    """Header, flow, workers, charts, events, chaos bar."""

    app = getters.app(CgilabApp)
    HELP = (
        "This is the lab: real worker processes behind a real proxy. Break something and watch it heal.\n\n"
        "k kills the worker under the cursor (SIGKILL), t asks it to stop (SIGTERM), z freezes and thaws it (SIGSTOP, "
        "SIGCONT), + and - change how many workers its app has, H heals everything. After a, the next of k, t and z "
        "hits all workers of the app.\n\n"
        "r sends one request, p pauses the requests that the lab sends itself. Tab moves between the parts of the "
        "screen; ? explains the one you are on."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("k", "strike('kill')", "Kill", tooltip="SIGKILL to the worker under the cursor"),
        Binding("t", "strike('term')", "Term", tooltip="SIGTERM to the worker under the cursor"),
        Binding("z", "freeze", "Freeze or thaw", tooltip="SIGSTOP or SIGCONT to the worker under the cursor"),
        Binding("minus", "scale(-1)", "One worker fewer", tooltip="In the app under the cursor"),
        Binding("plus,equals_sign", "scale(1)", "One worker more", tooltip="In the app under the cursor"),
        Binding("H", "heal", "Heal all", tooltip="Thaw what is frozen, end back-off, try failed slots again"),
        Binding("a", "arm", "Arm", tooltip="The next kill, term or freeze hits the whole app"),
        Binding("r", "request", "Request", tooltip="Send one request to the app under the cursor"),
        Binding("p", "app.traffic", "Own traffic", tooltip="Pause or resume the requests that the lab sends itself"),
        Binding("w", "pane('workers')", "Workers", tooltip="Show the table of workers"),
        Binding("f", "pane('flow')", "Flow", tooltip="Show the way of a request"),
        Binding("c", "pane('charts')", "Charts", tooltip="Show the last minute"),
        Binding("b", "pane('beliefs')", "Beliefs", tooltip="What the balancer believes, beside what the kernel says"),
        Binding("up,left", "pick(-1)", "Worker above", show=False),
        Binding("down,right", "pick(1)", "Worker below", show=False),
        Binding("e", "pane('events')", "Events", tooltip="Go to the event log"),
    ]
    AUTO_FOCUS = "WorkerTable"

    def __init__(self) -> None:
        super().__init__()
        self._armed = ""
        """The app that the next strike hits as a whole; empty while disarmed."""
        self._looking = False
        """Balancer and kernel are being compared."""

    def compose(self) -> ComposeResult:
        yield StatusBar()
        yield Banner()
        with Container(id="panes"):
            yield Flow()
            with Container(id="charts"):
                yield LatencyChart()
                yield RateChart()
            yield WorkerTable()
            yield EndpointTable()
            yield EventLog()
        yield PhotoFinish()
        yield Said("Pick a worker with the arrow keys, then press k.")
        yield KeyBar("CHAOS ", id="chaos")
        yield KeyBar(keys=_FOOTER, classes="-footer")

    def on_mount(self) -> None:
        """Draw the keys, before the first look at the lab came."""
        self._draw_choice()

    def on_screen_resume(self, event: ScreenResume) -> None:
        """Catch up with what happened while another mode was on screen."""
        latest = self.app.bridge.latest
        if latest is not None:
            self._draw(Polled(latest, tuple(self.app.bridge.log)))

    def on_polled(self, message: Polled) -> None:
        """Draw the lab as it is now, and hold the newest healing on screen."""
        self._draw(message)
        healed = [event for event in message.events if event.kind is EventKind.HEALED]
        if healed and not message.backlog:
            self.query_one(PhotoFinish).show(healed[-1])

    def on_key(self, event: KeyPressed) -> None:
        """Any key but the one that explains it closes the photo finish, and does what it does."""
        if event.key != "question_mark":
            self.query_one(PhotoFinish).clear()

    def on_worker_table_moved(self) -> None:
        """Another worker: disarm, for arming was meant for the one before."""
        self._disarm()

    def action_pick(self, by: int) -> None:
        """Move the cursor of the table from wherever the focus is."""
        self.query_one(WorkerTable).action_move(by)

    def action_strike(self, word: str) -> None:
        """Send a deadly signal to the selected worker, or to its whole app when armed."""
        self._strike(word)

    def action_freeze(self) -> None:
        """Freeze the selected worker, or thaw it when it is frozen; the whole app when armed."""
        chosen = self._chosen()
        frozen = chosen is not None and chosen.worker is not None and chosen.worker.stopped
        self._strike("thaw" if frozen else "freeze")

    def action_scale(self, by: int) -> None:
        """Change how many workers the selected app has."""
        chosen = self._chosen()
        if chosen is not None:
            self.app.scale(chosen.app.name, by)

    def action_heal(self) -> None:
        """Undo every fault."""
        self.app.order("heal")

    def action_arm(self) -> None:
        """Arm or disarm: armed, the next strike hits every worker of the selected app."""
        chosen = self._chosen()
        if chosen is None or chosen.worker is None:
            self._refuse(chosen)
            return
        self._armed = "" if self._armed else chosen.app.name
        self._draw_choice()

    def action_request(self) -> None:
        """Send one request to the selected app."""
        chosen = self._chosen()
        if chosen is not None:
            self.app.order(f"request {chosen.app.name}")

    def action_pane(self, name: str) -> None:
        """Bring a pane to the front and focus it. Where all fit, only the focus moves."""
        if name != "events":
            self.set_class(name == "flow", "-show-flow")
            self.set_class(name == "charts", "-show-charts")
            self.set_class(name == "beliefs", "-show-beliefs")
            self._look_closer()
        targets: dict[str, type[Widget]] = {
            "workers": WorkerTable,
            "flow": Flow,
            "charts": LatencyChart,
            "beliefs": EndpointTable,
            "events": EventLog,
        }
        self.query_one(targets[name]).focus()

    def _look_closer(self) -> None:
        """Ask what balancer and kernel say, while that is on screen and was answered: it costs more than a snapshot."""
        if self.has_class("-show-beliefs") and not self._looking:
            self._looking = True
            self._compare()

    @work
    async def _compare(self) -> None:
        try:
            with contextlib.suppress(LabError):  # the banner tells of a lab that does not answer
                self.query_one(EndpointTable).show(await self.app.lab.standings())
        finally:
            self._looking = False

    def _strike(self, word: str) -> None:
        chosen = self._chosen()
        if chosen is None or chosen.worker is None:
            self._refuse(chosen)
        else:
            self.app.order(f"{word} {self._armed or chosen.target}")
            self._disarm()

    def _refuse(self, chosen: Selected | None) -> None:
        """Say why there is nobody to strike at."""
        if chosen is None or chosen.absence is None:
            self.app.say("There is no worker to act on.", "bad")
        else:
            self.app.say(f"{chosen.app.name} has no worker to act on: {chosen.absence.word}.", "bad")

    def _chosen(self) -> Selected | None:
        return self.query_one(WorkerTable).selected

    def _disarm(self) -> None:
        self._armed = ""
        self._draw_choice()

    def _draw(self, look: Polled) -> None:
        self.query_one(StatusBar).show(look.snapshot)
        self.query_one(Flow).show(look.snapshot, look.events)
        self.query_one(WorkerTable).show(look.snapshot)
        self.query_one(EventLog).show(look.events, look.missed)
        self._look_closer()
        for chart in self.query(Chart):
            chart.show(self.app.bridge.history)
        self._draw_choice()

    def _draw_choice(self) -> None:
        chosen = self._chosen()
        if chosen is None or chosen.app.name != self._armed:
            self._armed = ""  # The cursor may have been moved by workers that went away.
        self.query_one(Flow).pick(chosen.place if chosen is not None else None)
        self.app.announce(
            "armed", f"ARMED: the next k, t or z hits every worker of {self._armed}" if self._armed else ""
        )
        frozen = chosen is not None and chosen.worker is not None and chosen.worker.stopped
        latest = self.app.bridge.latest
        role = "bad" if self._armed else "text"
        self.query_one("#chaos", KeyBar).show(
            (
                Key("k", "Kill", "screen.strike('kill')", role),
                Key("t", "Term", "screen.strike('term')", role),
                Key("z", "Thaw" if frozen else "Freeze", "screen.freeze", role),
                Key("-", "", "screen.scale(-1)"),
                Key("+", "Scale", "screen.scale(1)"),
                Key("H", "Heal all", "screen.heal"),
                Key("a", "Disarm" if self._armed else "Arm", "screen.arm", role),
                Key("r", "Send", "screen.request"),
                Key("p", "Own off" if latest is not None and latest.own.rate else "Own on", "screen.traffic"),
            )
        )
