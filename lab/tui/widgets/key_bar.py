"""One row of things to do: each is a key and, for the mouse, a button. One widget paints them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from textual.events import Click

from lab.tui.painting import Painted, Row, length


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is shown, what it does in a word or two, and the action to run when it is clicked."""

    key: str
    label: str
    action: str
    role: str = "text"


class KeyBar(Painted):
    """Keys in a row, after a title. Where room is short the title is left out first, then keys from the end."""

    def __init__(self, title: str = "", keys: Sequence[Key] = (), **options: Any) -> None:
        super().__init__(**options)
        self._title = title
        self._keys = tuple(keys)

    def show(self, keys: Sequence[Key]) -> None:
        """Offer these keys from now on."""
        self._keys = tuple(keys)
        self.repaint()

    def rows(self, width: int) -> Sequence[Row]:
        row: Row = ((self._shown_title(width), "head"),)
        for key in self._keys:
            if length(row) + length(_shown(key)) <= width + _BLANK:
                row = (*row, *_shown(key))
        return (row,)

    def _shown_title(self, width: int) -> str:
        """The title, where there is room for it beside all the keys."""
        wanted = len(self._title) + sum(length(_shown(key)) for key in self._keys)
        return self._title if wanted <= width + _BLANK else ""

    async def on_click(self, event: Click) -> None:
        """Do what the key under the mouse does."""
        end = len(self._shown_title(self.size.width))
        for key in self._keys:
            start, end = end, end + length(_shown(key))
            if start <= event.x < end:
                await self.run_action(key.action)


_BLANK = 1
"""The blank behind the last key needs no room."""


def _shown(key: Key) -> Row:
    return ((f" {key.key} ", "accent"), (f"{key.label} " if key.label else "", key.role))
