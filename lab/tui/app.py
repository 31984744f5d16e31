"""The terminal app: modes, the keys that hold in all of them, and the one place where commands are given and answered.

The app knows the lab by its façade alone, in this process or in another. Screens are imported when they are first
shown, so that the first picture comes soon.
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.screen import ModalScreen, Screen
from textual.theme import Theme

from lab.core.errors import LabError
from lab.core.events import EventKind
from lab.core.states import Policy
from lab.engine.commands import execute
from lab.engine.lab import Lab, LabSpec
from lab.tui.bridge import Bridge, Polled
from lab.tui.terminal import Terminal
from lab.tui.widgets.said import Banner, Said

LOST = 3
"""Return code when the lab had gone away by the time the person left: as the command line has it for `no lab`."""

_WIDTHS = [(0, "-narrow"), (120, "-wide")]
_HEIGHTS = [(0, "-short"), (36, "-tall")]
"""Classes on the screen from this many cells up; theme.tcss lays out by them."""

_THEME = Theme(
    name="cgilab",
    primary="#6cb6ff",
    secondary="#7fd4ff",
    accent="#ffb454",
    success="#7ee787",
    warning="#e3c567",
    error="#ff7b72",
    foreground="#e6e6e6",
    background="#11151c",
    surface="#171c26",
    panel="#252c3a",
)


def _lab_screen() -> Screen[None]:
    from lab.tui.screens.lab import LabScreen

    return LabScreen()


def _lessons_screen() -> Screen[None]:
    from lab.tui.screens.lessons import LessonsScreen

    return LessonsScreen()


class CgilabApp(App[None]):
    """A screen on `lab`. Opens on mode Lessons when `open_lesson` names one. `return_code` is 0, or `LOST`."""

    TITLE = "cgilab"
    CSS_PATH = "theme.tcss"
    HORIZONTAL_BREAKPOINTS = _WIDTHS
    VERTICAL_BREAKPOINTS = _HEIGHTS
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {"lab": _lab_screen, "lessons": _lessons_screen}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "mode('lab')", "Lab", tooltip="The whole lab on one screen"),
        Binding("2", "mode('lessons')", "Lessons", tooltip="Learn by breaking it"),
        Binding("question_mark", "explain", "Explain", tooltip="Explain the part of the screen that has the focus"),
        Binding("colon", "command_line", "Command", tooltip="Type a command: kill, freeze, scale, set, ..."),
        Binding("y", "copy", "Copy", tooltip="Copy the URL or command of the part that has the focus"),
        Binding("q", "quit", "Quit", tooltip="Stop every worker and leave"),
    ]

    def __init__(
        self, lab: Lab, *, open_lesson: str | None = None, read_only: bool = False, lab_stays: bool = True
    ) -> None:
        super().__init__()
        self.register_theme(_THEME)
        # Without a word to watchers: they would read the whole style sheet anew, three times before the first picture.
        self.set_reactive(CgilabApp.theme, _THEME.name)
        self.stylesheet.set_variables(self.get_css_variables())
        self.lab = lab
        self.lab_stays = lab_stays
        """Whether the lab goes on when the screen is left, so that it has to be left as it was found."""
        self.open_lesson = open_lesson
        """The lesson to open on; None opens on the lab."""
        self.defect: BaseException | None = None
        """What ended the screen by surprise. Whoever runs the app raises it again once the terminal is a person's."""
        self.bridge = Bridge(lab, self._deliver, self._lose)
        self._lost: LabError | None = None
        self._scaling = asyncio.Lock()
        self._port_until = 0.0
        self._paused_rate = LabSpec().own_rate
        self._loud: dict[str, str] = {"read-only": _READ_ONLY} if read_only else {}

    def on_mount(self) -> None:
        """Open the first mode and begin to look at the lab."""
        self.switch_mode("lessons" if self.open_lesson else "lab")
        self.run_worker(self.bridge.run(), name="bridge")
        self.call_after_refresh(gc.freeze)

    def get_driver_class(self) -> type[Driver]:
        """Textual's choice, but on a terminal one that survives its end."""
        chosen = super().get_driver_class()
        return Terminal if chosen is LinuxDriver else chosen

    @work
    async def order(self, line: str) -> None:
        """Give the lab a command (see `lab.engine.commands`). What came of it is said on the screen, not returned."""
        await self._execute(line)

    @work
    async def scale(self, name: str, by: int) -> None:
        """Change how many workers the app `name` has. However fast these come, each counts from the one before."""
        async with self._scaling:
            try:
                app = (await self.lab.spec()).app(name)
            except LabError as error:
                self.say(str(error), "bad")
                return
            if app is not None:
                most = max(0, app.pool.max_workers + by)
                static = app.pool.policy is Policy.STATIC
                await self._execute(f"scale {name} {most}" if static else f"set {name} max_workers={most}")

    def say(self, text: str, role: str = "strong") -> None:
        """Answer the person: in the screen's line for answers, or as a notification where it has none."""
        base = self._base
        lines = list(base.query(Said)) if base is not None else []
        if lines:
            lines[0].show(text, role)
        else:
            self.notify(text, severity="error" if role == "bad" else "information", markup=False)

    def announce(self, subject: str, text: str) -> None:
        """Say something loudly for as long as it holds; an empty text ends it. One sentence a subject."""
        self._loud.pop(subject, None)
        if text:
            self._loud[subject] = text
        self._draw_banner()

    def action_traffic(self) -> None:
        """Pause the lab's own requests, or let them come again as they did before."""
        if (latest := self.bridge.latest) is not None:
            rate = latest.own.rate
            self._paused_rate = rate or self._paused_rate
            self.order(f"traffic {0 if rate else self._paused_rate:g}")

    def action_mode(self, mode: str) -> None:
        """Switch to a mode; what another mode was loud about is not taken along."""
        self.announce("armed", "")
        self.switch_mode(mode)

    def action_explain(self) -> None:
        """Explain the photo finish while it is shown, else the widget under the focus, else the screen."""
        focused = self.focused.ancestors_with_self if self.focused is not None else [self.screen]
        nodes = [*self.screen.query("PhotoFinish.-shown"), *focused]
        help_text = next((node.HELP for node in nodes if node.HELP), None)
        if help_text:
            self._explain(help_text)

    def action_command_line(self) -> None:
        """Ask for a command and give it to the lab."""
        from lab.tui.screens.command_line import CommandLine

        def obey(line: str | None) -> None:
            if line:
                self.order(line)

        self.push_screen(CommandLine(), obey)

    def action_copy(self) -> None:
        """Copy what the widget under the focus offers, or the lab's address."""
        latest = self.bridge.latest
        text = getattr(self.focused, "to_copy", "") or (latest.listener if latest is not None else "")
        if text:
            self.copy_to_clipboard(text)
            self.say(f"Copied, if your terminal allows it: {text}")

    async def action_quit(self) -> None:
        """Leave. Stopping the workers is the business of whoever started them."""
        self.exit(return_code=LOST if self._lost is not None else 0)

    def action_help_quit(self) -> None:
        """Ctrl+C: in a terminal app it is a key like others, but whoever presses it wants to leave."""
        self.say("q quits, and stops every worker.")

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Everything that has a key, and the choice of a theme."""
        actions: set[str] = set()
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.description and binding.show and binding.action not in actions:
                actions.add(binding.action)  # two keys may do the same
                run = partial(self.run_action, binding.action, active.node)
                explained = binding.tooltip or binding.description
                yield SystemCommand(binding.description, f"{explained} ({self.get_key_display(binding)})", run)
        yield SystemCommand("Theme", "Choose other colours", self.action_change_theme)

    def _fatal_error(self) -> None:
        """End without a word where Textual would print a traceback, with the values of all variables."""
        self.defect = sys.exception()
        self.panic()

    @property
    def _base(self) -> Screen[object] | None:
        """The screen of the mode, under whatever asks or explains something; None while there is none."""
        return next((screen for screen in reversed(self.screen_stack) if not isinstance(screen, ModalScreen)), None)

    def _explain(self, text: str) -> None:
        from lab.tui.screens.explain import Explain

        self.push_screen(Explain(text))

    async def _execute(self, line: str) -> None:
        try:
            told = await execute(self.lab, line)
        except LabError as error:
            self.say(str(error), "bad")
            return
        if "\n" in told:
            self._explain(told)
        else:
            self.say(told)

    def _deliver(self, look: Polled) -> None:
        self._lost = None
        self._loud.pop("lost", None)
        if look.snapshot.read_only:
            self._loud["read-only"] = _READ_ONLY
        self._tell_port(look)
        self._draw_banner()  # with every look, for the screen may be another one by now
        if (base := self._base) is not None:
            base.post_message(look)

    def _tell_port(self, look: Polled) -> None:
        """Be loud for a minute about a listener that is not where it was wanted."""
        for event in look.events:
            if event.kind is EventKind.LISTENING and event.data.get("asked", 0) not in (0, look.snapshot.port):
                self._loud["port"] = f"PORT {event.data['asked']} IS IN USE: this lab is at {look.snapshot.listener}"
                self._port_until = event.at + _PORT_TOLD_S
        if look.snapshot.at > self._port_until:
            self._loud.pop("port", None)

    def _lose(self, error: LabError) -> None:
        self._lost = error
        self.announce("lost", f"THE LAB DOES NOT ANSWER: {error}")

    def _draw_banner(self) -> None:
        base = self._base
        for banner in base.query(Banner) if base is not None else ():
            banner.show(tuple(self._loud.values()))


_PORT_TOLD_S = 60.0
_READ_ONLY = "READ-ONLY: you can watch this lab, not change it"
