"""What the balancer believes of each worker, beside what the kernel says of it: the gap that a lesson is about."""

from collections.abc import Sequence

from textual.events import Resize

from lab.core.standing import Standing
from lab.engine.standings import health
from lab.tui import figures
from lab.tui.painting import PaintedScroll, Row, fit

_HEADS = ("WORKER", "pid", "believed", "in flight", "average", "process", "open", "waiting")
_NARROW = (12, 7, 13, 10, 8, 11, 5, 10)
_WIDE = (18, 9, 30, 11, 10, 12, 6, 12)
_WIDE_FROM = sum(_WIDE)
"""Cells of the columns, and from which width on there is room for more."""
_UNSEEN = (("  Looking ...", "dim"),)


class EndpointTable(PaintedScroll):
    """A row a worker, and one below it for each thing in which balancer and kernel differ, and for why it is held back
    where there is no room for that beside it."""

    HELP = (
        "Left what the balancer goes by when it chooses, right what the kernel says of the same worker at the same "
        "time. Where they differ, a line says so.\n\n"
        "health: what its answers and checks made the balancer think of it. in flight: requests that it counts as open "
        "there, of the places that the worker has. average: how long answers take, where the selection policy measures "
        "that.\n\n"
        "process: running, sleeping (waits for work), stopped (frozen by SIGSTOP), zombie. open: connections that the "
        "process has accepted. waiting: connections in its accept queue. The kernel has accepted those and the process "
        "has not, so whoever sent a request there waits without knowing it.\n\n"
        "Freeze a worker with z and look here: until a health check fails, the balancer goes on believing in it. "
        "w brings the table of workers back."
    )
    can_focus = True

    def __init__(self) -> None:
        super().__init__()
        self._rows: Sequence[Row] = (_UNSEEN,)
        self._standings: Sequence[Standing] = ()

    def show(self, standings: Sequence[Standing]) -> None:
        """Draw them; rows that look as they did are not painted again."""
        before, self._standings = self._rows, standings
        self._rows = [row for standing in standings for row in self._told(standing)] or [
            (("  No worker has a process now.", "dim"),)
        ]
        if len(before) != len(self._rows):
            self.measure()
            self.refresh()
        else:
            self.refresh_rows(number for number, row in enumerate(self._rows) if row != before[number])

    @property
    def count(self) -> int:
        return len(self._rows)

    def heading(self, width: int) -> Row:
        return ((_cells(_HEADS, _room(width), self.glyphs.more), "head"),)

    def line(self, number: int, width: int) -> Row:
        return self._rows[number]

    def on_resize(self, event: Resize) -> None:
        """The columns are others now."""
        self.show(self._standings)

    def _told(self, standing: Standing) -> list[Row]:
        """The row of a worker, and those of what is said about it."""
        believed, actual, more = standing.believed, standing.actual, self.glyphs.more
        room = _room(self.scrollable_content_region.width)
        role = "text" if believed.routed else "dim"
        thought, notes = health(believed), standing.differences
        if len(thought) >= room[2] and believed.why:
            thought, notes = thought.partition(":")[0], (f"It {believed.why.rstrip('.')}.", *notes)
        named = (f"{standing.app}/{standing.slot}", str(standing.pid or figures.NONE))
        told = (
            thought,
            f"{believed.in_flight} of {believed.places}",
            figures.milliseconds(believed.ewma_ms),
        )
        seen = (
            actual.process or figures.NONE,
            figures.NONE if actual.established is None else str(actual.established),
            figures.NONE if actual.waiting is None else f"{actual.waiting} of {actual.room}",
        )
        row = (
            (_cells(named, room[:2], more), "strong"),
            (_cells(told, room[2:5], more), role),
            (_cells(seen, room[5:], more), "warn" if standing.differences else role),
        )
        return [row, *((("  ! ", "bad"), (note, "warn")) for note in notes)]


def _room(width: int) -> Sequence[int]:
    return _WIDE if width >= _WIDE_FROM else _NARROW


def _cells(cells: Sequence[str], room: Sequence[int], more: str) -> str:
    return "".join(fit(cell, width - 1, more) + " " for cell, width in zip(cells, room, strict=True))
