"""Where the lab answers the person: what a command did, why it could not, and what nobody may overlook."""

import textwrap
from collections.abc import Sequence
from typing import Any

from lab.tui.painting import Painted, Row


class Said(Painted):
    """The last answer, in as many rows as it needs. It stays until the next."""

    def __init__(self, text: str = "", **options: Any) -> None:
        super().__init__(**options)
        self._text, self._role = text, "dim"

    def show(self, text: str, role: str = "strong") -> None:
        """Say `text`; role `bad` is for what went wrong."""
        self._text, self._role = text, role
        self.repaint()

    def rows(self, width: int) -> Sequence[Row]:
        lines = textwrap.wrap(self._text, max(1, width)) or [""]
        return tuple(((line, self._role),) for line in lines)


class Banner(Painted):
    """Read-only, armed, lab lost: across the whole width, a row or more each. Takes none while there is nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._texts: tuple[str, ...] = ()

    def show(self, texts: Sequence[str]) -> None:
        """Say these sentences loudly; those that are said already cost nothing."""
        if self._texts == tuple(texts):
            return
        self._texts = tuple(texts)
        self.set_class(bool(texts), "-shown")
        self.repaint()

    def rows(self, width: int) -> Sequence[Row]:
        lines = [line for text in self._texts for line in textwrap.wrap(text, max(1, width - 2))]
        return tuple(((line.center(width), "loud"),) for line in lines)
