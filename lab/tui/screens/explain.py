"""What a part of the screen means, over the screen. Any key closes it."""

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.events import Click, Key
from textual.screen import ModalScreen
from textual.widgets import Static

_SCROLLING = frozenset({"up", "down", "pageup", "pagedown", "home", "end"})


class Explain(ModalScreen[None]):
    """Shows `text`, plain."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="page"):
            yield Static(self._text, markup=False)
            yield Static("\nAny key closes this.", markup=False, classes="-quiet")

    def on_key(self, event: Key) -> None:
        """Close, unless the key moves the text; the key does nothing else."""
        if event.key not in _SCROLLING:
            event.stop()
            event.prevent_default()
            self.dismiss()

    def on_click(self, event: Click) -> None:
        """A click closes too."""
        self.dismiss()
