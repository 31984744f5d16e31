"""Every worker as a row, with a cursor that stays on its slot, whatever happens to the rows around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.message import Message

from lab.core.snapshot import AppSnapshot, LabSnapshot, WorkerSnapshot
from lab.tui import figures
from lab.tui.looks import look, words
from lab.tui.painting import PaintedScroll, Row, fit

_WIDE_FROM = 95


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table. Width 0 takes what the others leave."""

    title: str
    width: int
    right: bool = True


_NARROW = (
    Column("WORKER", 13, right=False),
    Column("pid", 8),
    Column("  state", 0, right=False),
    Column("req/s", 7),
    Column("p99", 8),
    Column("restarts", 9),
)
_WIDE = (
    Column("WORKER", 13, right=False),
    Column("gen", 4),
    Column("pid", 8),
    Column("  state", 0, right=False),
    Column("req/s", 7),
    Column("p50", 8),
    Column("p99", 8),
    Column("in flight", 10),
    Column("restarts", 9),
    Column("cpu %", 6),
    Column("memory", 7),
    Column("up", 8),
)


@dataclass(frozen=True, slots=True)
class Selected:
    """A row: a worker and the app that it belongs to. An app without any worker has one row of its own."""

    app: AppSnapshot
    worker: WorkerSnapshot | None

    @property
    def target(self) -> str:
        """As commands name it: `search/1`, or `search` where there is no worker."""
        return f"{self.app.name}/{self.worker.slot}" if self.worker is not None else self.app.name

    @property
    def place(self) -> tuple[str, int] | None:
        """App and slot, as the flow knows them; None where there is no worker."""
        return (self.app.name, self.worker.slot) if self.worker is not None else None


class WorkerTable(PaintedScroll):
    """A row a worker: six columns below 95 cells, twelve from there on."""

    HELP = (
        "Every worker is a real process. Pick one with the arrow keys; Kill, Term and Freeze act on it.\n\n"
        "pid: its process ID now; the slot keeps its name (search/1) when the process is replaced. "
        "gen: how many processes the slot has had. req/s, p50, p99: over the last ten seconds. "
        "in flight: requests the proxy has open to it. cpu, memory: as the kernel counts them.\n\n"
        "The state says why a worker does not serve, and counts down while it waits.\n\n"
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
        """Draw the workers of `snapshot`; rows that are as they were are not painted again."""
        before, held = self._entries, self.selected
        self._entries = [Selected(app, worker) for app in snapshot.apps for worker in app.workers or (None,)]
        at = self._cursor
        self._cursor = self._find(held)
        if len(before) != len(self._entries) or at != self._cursor:
            self.measure()
            self.refresh()
            return
        pairs = enumerate(zip(before, self._entries, strict=True))
        self.refresh_rows(number for number, (old, new) in pairs if _shown(old) != _shown(new))

    @property
    def count(self) -> int:
        return len(self._entries)

    def heading(self, width: int) -> Row:
        columns = _columns(width)
        return ((_joined([column.title for column in columns], columns, width, self.glyphs.more), "head"),)

    def line(self, number: int, width: int) -> Row:
        entry = self._entries[number]
        if entry.worker is None:
            return self._lone(entry, number)
        columns = _columns(width)
        state = next(place for place, column in enumerate(columns) if not column.width)
        cells = self._cells(entry.target, entry.worker, wide=columns is _WIDE)
        more = self.glyphs.more
        name = fit(self._mark(number) + cells[0], columns[0].width, more)
        before = _joined(cells[1:state], columns[1:state], width, more)
        after = _joined(cells[state + 1 :], columns[state + 1 :], width, more)
        left = width - len(name) - len(before)
        if len(cells[state]) > left - len(after):
            after = ""  # What is wrong with it matters more than its figures.
        room = max(0, left - len(after))
        seen = look(entry.worker)
        role = "text" if entry.worker.routed else "dim"
        return ((name, "strong"), (before, role), (fit(cells[state], room, more), seen.role), (after, role))

    def _lone(self, entry: Selected, number: int) -> Row:
        """An app without workers: which, and why."""
        name = (f"{self._mark(number)}{entry.app.name}  ", "strong")
        if entry.app.unavailable is not None:
            return (name, (f"{self.glyphs.failed} not available: {entry.app.unavailable}", "bad"))
        if entry.app.waits_for:
            return (name, (f"{self.glyphs.starting} waits for {', '.join(entry.app.waits_for)}", "warn"))
        if entry.app.building:
            return (name, (f"{self.glyphs.starting} building its program", "warn"))
        return (name, ("no workers", "dim"))

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

    def _cells(self, target: str, worker: WorkerSnapshot, *, wide: bool) -> list[str]:
        pid = "-" if worker.pid is None else str(worker.pid)
        state = f"  {look(worker).sign(self.glyphs)} {words(worker)}"
        rate = figures.rate(worker.rps if worker.requests is not None else None)
        p99 = figures.milliseconds(worker.p99_ms)
        if not wide:
            return [target, pid, state, rate, p99, str(worker.restarts)]
        return [
            target,
            str(worker.generation),
            pid,
            state,
            rate,
            figures.milliseconds(worker.p50_ms),
            p99,
            figures.NONE if worker.in_flight is None else str(worker.in_flight),
            str(worker.restarts),
            "-" if worker.cpu_percent is None else f"{worker.cpu_percent:.1f}",
            figures.size(worker.rss_bytes),
            figures.seconds(worker.uptime_s),
        ]


def _shown(entry: Selected) -> object:
    """What a row depends on."""
    if entry.worker is not None:
        return entry.worker
    return entry.app.name, entry.app.unavailable, entry.app.waits_for, entry.app.building


def _columns(width: int) -> tuple[Column, ...]:
    return _WIDE if width >= _WIDE_FROM else _NARROW


def _joined(cells: Sequence[str], columns: Sequence[Column], width: int, more: str) -> str:
    """Cells side by side, each in its column; the column without a width takes what is left of `width`."""
    left = max(0, width - sum(column.width for column in columns))
    parts = []
    for cell, column in zip(cells, columns, strict=True):
        room = column.width or left
        parts.append(cell.rjust(room) if column.right and len(cell) <= room else fit(cell, room, more))
    return "".join(parts)
