"""One line in which the lab answers the person: what a command did, or why it could not."""

from collections.abc import Sequence
from typing import Any

from lab.tui.painting import Painted, Row


class Said(Painted):
    """The last answer. It stays until the next."""

    HELP = "What the lab answered to your last key or command. `:` opens the command line."

    def __init__(self, text: str = "", **options: Any) -> None:
        super().__init__(**options)
        self._said: Row = ((text, "dim"),)

    def show(self, text: str, role: str = "strong") -> None:
        """Say `text`; role `bad` is for what went wrong."""
        self._said = ((text, role),)
        self.repaint()

    def rows(self, width: int) -> Sequence[Row]:
        return (self._said,)


class Banner(Painted):
    """What nobody may overlook: read-only, armed, lab lost. Takes no row while there is nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._text = ""

    def show(self, text: str) -> None:
        """Say `text` loudly; nothing when it is empty."""
        self._text = text
        self.set_class(bool(text), "-shown")
        self.repaint()

    def rows(self, width: int) -> Sequence[Row]:
        return (((self._text.center(width), "loud"),),) if self._text else ()
