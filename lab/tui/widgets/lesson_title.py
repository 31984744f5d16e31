"""One row above a lesson: which lesson, which scene, how far, and the seconds left where a clock runs."""

from collections.abc import Sequence

from lab.learning.page import Page, Phase
from lab.tui.painting import Painted, Row, length


class LessonTitle(Painted):
    """Empty until `show`."""

    def __init__(self) -> None:
        super().__init__()
        self._title = ""
        self._page: Page | None = None

    def show(self, title: str, page: Page) -> None:
        """Show where in the lesson called `title` the learner is."""
        self._title, self._page = title, page
        self.repaint()

    def clear(self) -> None:
        """No lesson is open."""
        self._page = None
        self.repaint()

    def rows(self, width: int) -> Sequence[Row]:
        page = self._page
        if page is None:
            return ((("cgilab", "head"),),)
        over = page.phase is Phase.OVER
        way = "".join(
            self.glyphs.ready if number < page.scene or over else self.glyphs.starting for number in range(page.scenes)
        )
        name = "Done" if over else page.title
        left: Row = ((self._title, "dim"), (f"  {page.scene}/{page.scenes}  ", "accent"), (name, "head"))
        clock = f"{page.remaining_s:4.1f} s left   " if page.remaining_s is not None else ""
        gap = max(2, width - length(left) - len(clock) - len(way))
        return ((*left, (" " * gap, "text"), (clock, "warn"), (way, "accent")),)
