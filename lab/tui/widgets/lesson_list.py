"""The lessons there are, one a row: done or not, for whom, and how long they take."""

from collections.abc import Sequence

from lab.learning.lessons import Entry
from lab.tui.painting import Painted, Row


class LessonList(Painted):
    """A list with a cursor. What Enter does, the screen decides."""

    HELP = "The lessons. Pick one with the arrow keys; Enter begins it."
    can_focus = True

    def __init__(self) -> None:
        super().__init__()
        self._entries: Sequence[Entry] = ()
        self._cursor = 0

    @property
    def selected(self) -> Entry | None:
        """The lesson under the cursor; None when there is none."""
        return self._entries[self._cursor] if self._entries else None

    def show(self, entries: Sequence[Entry]) -> None:
        """Show these lessons. The cursor goes to the first one that is not done."""
        self._entries = entries
        self._cursor = next((place for place, one in enumerate(entries) if not one.done), 0)
        self.repaint()

    def move(self, by: int) -> None:
        """Move the cursor, around the ends."""
        if self._entries:
            self._cursor = (self._cursor + by) % len(self._entries)
            self.repaint()

    def rows(self, width: int) -> Sequence[Row]:
        rows: list[Row] = [(("LESSONS", "head"), ("   Enter begins, Esc goes to the lab", "dim")), ()]
        for place, entry in enumerate(self._entries):
            here = place == self._cursor
            rows.append(
                (
                    (f"{self.glyphs.cursor if here else ' '} ", "accent"),
                    (f"{self.glyphs.ready} done   " if entry.done else f"{self.glyphs.starting} to do  ", "good"),
                    (entry.title.ljust(28), "strong" if here else "text"),
                    (f"{entry.level}, {entry.minutes} min", "dim"),
                )
            )
        return rows
