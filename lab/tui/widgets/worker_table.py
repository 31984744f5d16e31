"""Every worker as a row, with a cursor that stays on its slot, whatever happens to the rows around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.message import Message

from lab.core.snapshot import AppSnapshot, LabSnapshot, WorkerSnapshot
from lab.tui import figures
from lab.tui.looks import Look, absence, look, words
from lab.tui.painting import PaintedScroll, Row, fit

_WIDE_FROM = 95
_NAME = 13
_LONGEST_NAME = 24
"""The name of a worker takes what the longest one needs, between these."""
_STATE = 11
"""The least that is left for the state; columns go before it gets less."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table. The one of width 0 takes what the others leave."""

    title: str
    width: int
    right: bool = True


_STATE_COLUMN = Column("  state", 0, right=False)
_NARROW = (
    Column("pid", 8),
    _STATE_COLUMN,
    Column("req/s", 7),
    Column("p99", 8),
    Column("restarts", 9),
)
_WIDE = (
    Column("gen", 4),
    Column("pid", 8),
    _STATE_COLUMN,
    Column("req/s", 7),
    Column("p50", 8),
    Column("p99", 8),
    Column("in flight", 10),
    Column("restarts", 9),
    Column("cpu %", 6),
    Column("memory", 7),
    Column("up", 8),
)
_LEAVING = ("gen", "up", "in flight", "p50", "restarts", "p99", "req/s")
"""Which columns go, in this order, where names are long or room is short."""


@lru_cache(maxsize=16)
def columns_for(width: int, name: int) -> tuple[Column, ...]:
    """The columns that a table of `width` has room for when its names take `name` cells."""
    columns = (Column("WORKER", name, right=False), *(_WIDE if width >= _WIDE_FROM else _NARROW))
    for title in _LEAVING:
        if width - sum(column.width for column in columns) >= _STATE:
            break
        columns = tuple(column for column in columns if column.title != title)
    return columns


@dataclass(frozen=True, slots=True)
class Selected:
    """A row: a worker and the app that it belongs to. An app without any has a row of its own, and an `absence`."""

    app: AppSnapshot
    worker: WorkerSnapshot | None
    absence: Look | None = None

    @property
    def target(self) -> str:
        """As commands name it: `search/1`, or `search` where there is no worker."""
        return f"{self.app.name}/{self.worker.slot}" if self.worker is not None else self.app.name

    @property
    def place(self) -> tuple[str, int] | None:
        """App and slot, as the flow knows them; None where there is no worker."""
        return (self.app.name, self.worker.slot) if self.worker is not None else None


class WorkerTable(PaintedScroll):
    """A row a worker: six columns below 95 cells, up to twelve from there on."""

    HELP = (
        "Every worker is a real process. Pick one with the arrow keys; Kill, Term and Freeze act on it.\n\n"
        "pid: its process ID now; the slot keeps its name (search/1) when the process is replaced. "
        "gen: how many processes the slot has had. req/s, p50, p99: over the last ten seconds. "
        "in flight: requests the proxy has open to it. cpu, memory: as the kernel counts them.\n\n"
        "The state says why a worker does not serve, and counts down while it waits. `-` is what nobody can measure: "
        "where workers share one socket, only the kernel knows who answered.\n\n"
        "An app without workers has a row of its own that says why, with the figures of the app. Under cgi each "
        "request gets a process of its own, so there is nobody to kill; + and - change how many may run at once.\n\n"
        "y copies a kill command for another terminal."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Worker above", show=False),
        Binding("down", "move(1)", "Worker below", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "move(-1000000)", "First worker", show=False),
        Binding("end", "move(1000000)", "Last worker", show=False),
    ]
    can_focus = True

    class Moved(Message):
        """The cursor stands on another worker."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._entries: Sequence[Selected] = ()
        self._cursor = 0
        self._room = _NAME
        self._painted: dict[int, Row] = {}
        """Rows in sight as they were painted last."""

    @property
    def selected(self) -> Selected | None:
        """The worker under the cursor; None when there is none."""
        return self._entries[self._cursor] if self._entries else None

    @property
    def to_copy(self) -> str:
        """What `y` copies: the command that kills this worker from another terminal."""
        worker = self.selected.worker if self.selected is not None else None
        return f"kill -9 {worker.pid}" if worker is not None and worker.pid is not None else ""

    def show(self, snapshot: LabSnapshot) -> None:
        """Draw the workers of `snapshot`; rows that look as they did are not painted again."""
        before, held = len(self._entries), self.selected
        at, room = self._cursor, self._room
        self._entries = [
            Selected(app, worker, None if worker else absence(app, snapshot.processes))
            for app in snapshot.apps
            for worker in app.workers or (None,)
        ]
        self._room = min(_LONGEST_NAME, max([_NAME, *(len(entry.target) + 3 for entry in self._entries)]))
        self._cursor = self._find(held)
        if before != len(self._entries) or (at, room) != (self._cursor, self._room):
            self.measure()
            self.refresh()
            return
        self._paint_changed()

    def _paint_changed(self) -> None:
        top, width = round(self.scroll_y), self.scrollable_content_region.width
        before = self._painted
        self._painted = {number: self.line(number, width) for number in range(top, min(top + self.shown, self.count))}
        self.refresh_rows(number for number, row in self._painted.items() if before.get(number) != row)

    @property
    def count(self) -> int:
        return len(self._entries)

    def heading(self, width: int) -> Row:
        columns = columns_for(width, self._room)
        return (
            (_joined({column.title: column.title for column in columns}, columns, width, self.glyphs.more), "head"),
        )

    def line(self, number: int, width: int) -> Row:
        entry, more = self._entries[number], self.glyphs.more
        columns = columns_for(width, self._room)
        place = columns.index(_STATE_COLUMN)
        seen, said, cells = self._told(entry)
        begin = self._mark(number) + fit(_named(entry, self._room - 3, more), self._room - 2)
        before = _joined(cells, columns[1:place], width, more) if entry.worker is not None else ""
        after = _joined(cells, columns[place + 1 :], width, more)
        left = width - len(begin) - len(before)
        if len(said) > left - len(after):
            after = " " + after.lstrip()  # The first figure may not need its whole column.
        if len(said) > left - len(after):
            after = ""  # What is wrong with it matters more than its figures.
        role = "text" if entry.worker is None or entry.worker.routed else "dim"
        return (
            (begin, "strong"),
            (before, role),
            (fit(said, max(0, left - len(after)), more), seen.role),
            (after, role),
        )

    def _told(self, entry: Selected) -> tuple[Look, str, dict[str, str]]:
        """Look, state in words, and figures of a row."""
        if entry.worker is not None:
            seen = look(entry.worker)
            return seen, f"  {seen.sign(self.glyphs)} {words(entry.worker)}", _figures(entry.worker)
        lone = entry.absence or absence(entry.app, ())
        return lone, f"  {lone.sign(self.glyphs)} {lone.word}", _figures_of_app(entry.app)

    def _mark(self, number: int) -> str:
        return "> " if number == self._cursor else "  "

    def ground(self, number: int) -> str:
        return "cursor" if number == self._cursor else ""

    def action_move(self, by: int) -> None:
        """Move the cursor `by` rows, stopping at the ends."""
        self._go(self._cursor + by)

    def action_page(self, by: int) -> None:
        """Move the cursor by what fits on the screen."""
        self._go(self._cursor + by * max(1, self.shown - 1))

    def on_click(self, event: Click) -> None:
        """Put the cursor on the row that was clicked."""
        if event.y > 0:
            self._go(event.y - 1 + round(self.scroll_y))

    def on_resize(self, event: Resize) -> None:
        """The rows in sight changed: keep the cursor among them."""
        self.measure()
        self._keep_in_sight()

    def _go(self, number: int) -> None:
        old, self._cursor = self._cursor, max(0, min(number, self.count - 1))
        if old != self._cursor:
            self.refresh_rows((old, self._cursor))
            self._keep_in_sight()
            self.post_message(self.Moved())

    def _keep_in_sight(self) -> None:
        top = round(self.scroll_y)
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False)
        elif self.shown and self._cursor >= top + self.shown:
            self.scroll_to(y=self._cursor - self.shown + 1, animate=False)

    def _find(self, held: Selected | None) -> int:
        """Where the cursor belongs now: on the slot it was on, else at the end of its app, else as near as can be."""
        if held is None:
            return 0
        same = [number for number, entry in enumerate(self._entries) if entry.app.name == held.app.name]
        exact = [number for number in same if self._entries[number].target == held.target]
        return exact[0] if exact else same[-1] if same else max(0, min(self._cursor, len(self._entries) - 1))


def _named(entry: Selected, room: int, more: str) -> str:
    """What commands call it. Where it is too long its end stays, for the slot tells workers apart."""
    if len(entry.target) <= room:
        return entry.target
    slot = entry.target[len(entry.app.name) :]
    return entry.app.name[: room - len(slot) - len(more)] + more + slot


def _figures(worker: WorkerSnapshot) -> dict[str, str]:
    return {
        "gen": str(worker.generation),
        "pid": figures.NONE if worker.pid is None else str(worker.pid),
        "req/s": figures.rate(worker.rps if worker.requests is not None else None),
        "p50": figures.milliseconds(worker.p50_ms),
        "p99": figures.milliseconds(worker.p99_ms),
        "in flight": figures.NONE if worker.in_flight is None else str(worker.in_flight),
        "restarts": str(worker.restarts),
        "cpu %": figures.NONE if worker.cpu_percent is None else f"{worker.cpu_percent:.1f}",
        "memory": figures.size(worker.rss_bytes),
        "up": figures.seconds(worker.uptime_s),
    }


def _figures_of_app(app: AppSnapshot) -> dict[str, str]:
    """What there is to tell of an app that has no workers."""
    return {
        "req/s": figures.rate(app.rps),
        "p50": figures.milliseconds(app.p50_ms),
        "p99": figures.milliseconds(app.p99_ms),
    }


def _joined(cells: Mapping[str, str], columns: Sequence[Column], width: int, more: str) -> str:
    """Cells side by side, each in its column; the column without a width takes what is left of `width`."""
    left = max(0, width - sum(column.width for column in columns))
    parts = []
    for column in columns:
        room, cell = column.width or left, cells.get(column.title, "")
        parts.append(cell.rjust(room) if column.right and len(cell) <= room else fit(cell, room, more))
    return "".join(parts)
