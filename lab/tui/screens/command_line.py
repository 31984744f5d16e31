"""`:` opens a line at the bottom that takes what `cgilab` takes: kill, freeze, scale, heal, ..."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Input

from lab.engine.commands import USAGE
from lab.tui.widgets.said import Said


class CommandLine(ModalScreen[str]):
    """Returns the line, or nothing when it was left with Esc."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave")]

    def compose(self) -> ComposeResult:
        with Container(id="ask"):
            yield Said("Enter runs it, Esc leaves. TARGET: PID, APP, APP/SLOT or random.")
            yield Input(placeholder=", ".join(USAGE), suggester=SuggestFromList(list(USAGE)), compact=True)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Tell the arguments of the command that is being typed."""
        usage = USAGE.get(event.value.split(" ")[0])
        if usage:
            self.query_one(Said).show(usage, "accent")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Hand the line over."""
        self.dismiss(event.value.strip())

    def action_leave(self) -> None:
        """Leave without a command."""
        self.dismiss("")
