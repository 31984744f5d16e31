"""The way of a request, drawn: clients, proxy, apps, and one cell for each worker.

A cell lights while its worker answers. A killed worker is seen to die: its cell keeps the dead PID beside its
successor's for a few seconds, because the healing itself is over long before a screen can show it.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from math import log10
from typing import Any

from lab.core.events import Event, EventKind
from lab.core.snapshot import AppSnapshot, LabSnapshot, WorkerSnapshot
from lab.core.states import WorkerState
from lab.tui import figures
from lab.tui.glyphs import Glyphs
from lab.tui.looks import look, words
from lab.tui.painting import Painted, Row, Span, fit, length

REMEMBERED_S = 3.0
"""How long a death stays in its cell."""
_TREE_FROM = 64
"""Width from which the way is drawn as a tree; below it, apps stand under one another."""
_BAR = 4

Place = tuple[str, int]
"""An app and a slot in it."""


def bar(ms: float | None, width: int, bars: str) -> str:
    """A latency as a bar on a logarithmic scale: empty at 0.1 ms, full at 1 s."""
    if ms is None or ms <= 0.1:
        return (bars[1] if ms else bars[0]).ljust(width)
    steps = len(bars) - 1
    filled = max(1, min(width * steps, round(width * steps * (log10(ms) + 1) / 4)))
    whole, part = divmod(filled, steps)
    return (bars[-1] * whole + (bars[part] if part else "")).ljust(width)


def cell(worker: WorkerSnapshot, died: int | None, lit: bool, picked: bool, glyphs: Glyphs) -> Row:
    """One worker: sign, PID, and what there is to say about it. `died` is the PID that was here a moment ago."""
    seen = look(worker)
    pid = str(worker.pid) if worker.pid is not None else ""
    if died is not None and died != worker.pid:
        after = f"{seen.sign(glyphs)} {pid or words(worker)}"
        return ((f"{glyphs.dead} {died}", "bad"), (f" {glyphs.wire}{glyphs.arrow} ", "dim"), (after, seen.role))
    role = "picked" if picked else ("strong" if lit else "text")
    sign: Row = ((seen.sign(glyphs) + " ", seen.role), (pid or f"slot {worker.slot}", role), (" ", "text"))
    if seen.word == "ready":
        meter = bar(worker.p50_ms, _BAR, glyphs.bars)
        return (*sign, (meter, "accent" if lit else "dim"), _p50(worker))
    return (*sign, (words(worker), seen.role))


def _p50(worker: WorkerSnapshot) -> Span:
    return (f" {figures.milliseconds(worker.p50_ms)}" if worker.p50_ms is not None else "", "dim")


class Flow(Painted):
    """Clients, proxy, apps and workers. Looks right from 38 columns up."""

    HELP = (
        "The way of a request: clients send it to the proxy, the proxy picks a worker of the app by its policy (such "
        "as round robin), the worker answers.\n\n"
        "Behind an app's name stand its language, its policy with how many workers it wants now (and may want), and "
        "how the proxy picks among them.\n\n"
        "Each cell is one real process, named by its PID. The bar and the number are its median latency, from 0.1 ms "
        "(empty) to 1 s (full, each quarter ten times more). A cell lights when its worker has just answered.\n\n"
        "A worker that dies leaves its PID beside its successor's for three seconds.\n\n"
        "y copies a curl command that sends a request of your own."
    )
    can_focus = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._snapshot: LabSnapshot | None = None
        self._deaths: dict[Place, tuple[int, float]] = {}
        self._answered: dict[tuple[str, int, int], int] = {}
        self._lit: set[Place] = set()
        self._picked: Place | None = None

    def show(self, snapshot: LabSnapshot, events: tuple[Event, ...] = ()) -> None:
        """Draw the lab as it is in `snapshot`; `events` are those since the last call and tell who died in between."""
        self._note_deaths(events, snapshot.at)
        if self._snapshot is None or snapshot.at > self._snapshot.at:
            self._note_answers(snapshot)
        self._snapshot = snapshot
        self.repaint()

    def pick(self, place: Place | None) -> None:
        """Underline the worker that a key would act on."""
        if place != self._picked:
            self._picked = place
            self.repaint()

    @property
    def to_copy(self) -> str:
        """What `y` copies: a request to the first app, for another terminal."""
        if self._snapshot is None or not self._snapshot.apps:
            return ""
        return f"curl '{self._snapshot.listener}{self._snapshot.apps[0].route}'"

    def rows(self, width: int) -> Sequence[Row]:
        if self._snapshot is None:
            return ((("waiting for the first picture of the lab", "dim"),),)
        return self._tree(self._snapshot, width) if width >= _TREE_FROM else self._list(self._snapshot, width)

    def _note_deaths(self, events: Iterable[Event], now: float) -> None:
        for event in events:
            dead = event.kind is EventKind.STATE and event.state is WorkerState.EXITED
            if dead and event.pid is not None and event.app is not None and event.slot is not None:
                self._deaths[event.app, event.slot] = (event.pid, event.at)
        self._deaths = {where: death for where, death in self._deaths.items() if now - death[1] < REMEMBERED_S}

    def _note_answers(self, snapshot: LabSnapshot) -> None:
        counted = {
            (app.name, worker.slot, worker.generation): worker.requests or 0
            for app in snapshot.apps
            for worker in app.workers
        }
        self._lit = {key[:2] for key, number in counted.items() if number > self._answered.get(key, number)}
        self._answered = counted

    def _list(self, snapshot: LabSnapshot, width: int) -> list[Row]:
        way = f" {self.glyphs.wire}{self.glyphs.arrow} proxy"
        rows: list[Row] = [(("clients ", "text"), *_rates(snapshot, " "), (way, "text"))]
        for app in snapshot.apps:
            rows.append(self._head(app, width))
            rows += ((("  ", "text"), *row) for row in self._cells(app, width - 2))
        return rows

    def _tree(self, snapshot: LabSnapshot, width: int) -> list[Row]:
        wire, arrow = self.glyphs.wire, self.glyphs.arrow
        trunk = f"clients {wire}{wire}{arrow} proxy {wire}"
        indent = len(trunk)
        branches = list(self._branches(snapshot, width - indent - 3))
        rates = [fit(f" {text}".rstrip(), indent) for text, _ in _rates(snapshot, "") if text]
        branches += [("   ", ())] * (1 + len(rates) - len(branches))
        left = [(trunk, "text"), *((text, "dim") for text in rates)]
        left += [(" " * indent, "text")] * (len(branches) - len(left))
        return [(start, (joint, "dim"), *row) for start, (joint, row) in zip(left, branches, strict=True)]

    def _branches(self, snapshot: LabSnapshot, width: int) -> Iterator[tuple[str, Row]]:
        """Each app's rows with the piece of the tree that stands before them."""
        last = len(snapshot.apps) - 1
        for number, app in enumerate(snapshot.apps):
            yield self._joint(number, last) + self.glyphs.arrow + " ", self._head(app, width)
            stem = f"{self.glyphs.pipe}  " if number < last else "   "
            for row in self._cells(app, width - 2):
                yield stem, (("  ", "text"), *row)

    def _joint(self, number: int, last: int) -> str:
        if number == 0:
            return self.glyphs.fork if last else self.glyphs.wire
        return self.glyphs.corner if number == last else self.glyphs.tee

    def _head(self, app: AppSnapshot, width: int) -> Row:
        """Name, nature and figures of an app, as far as there is room."""
        nature = [app.language, _policy(app), app.selection.replace("_", " ")]
        dot = f" {self.glyphs.dot} "
        while nature and len(app.name) + 2 + len(dot.join(nature)) > width:
            nature.pop()
        row: Row = ((app.name, "head"), (f"  {dot.join(nature)}", "dim"))
        figure = f"  {figures.rate(app.rps)}/s  p99 {figures.milliseconds(app.p99_ms)}"
        if length(row) + len(figure) <= width:
            row = (*row, (figure, "text"))
        return (*row, (f"  {app.queue} queue", "warn")) if app.queue else row

    def _cells(self, app: AppSnapshot, width: int) -> list[Row]:
        """The app's workers, wrapped into rows of equal columns. A long cell takes several columns."""
        if app.unavailable is not None:
            return _wrap([((f"{self.glyphs.failed} not available: {app.unavailable}", "bad"),)], width)
        if app.waits_for:
            return _wrap([((f"{self.glyphs.starting} waits for {', '.join(app.waits_for)}", "warn"),)], width)
        cells = [*self._workers(app), *self._departed(app)]
        if app.building:
            cells.insert(0, ((f"{self.glyphs.starting} building its program", "warn"),))
        return _wrap(cells or [((f"{self.glyphs.dot} no workers", "dim"),)], width)

    def _workers(self, app: AppSnapshot) -> Iterator[Row]:
        for worker in app.workers:
            where = (app.name, worker.slot)
            died = self._deaths.get(where, (None, 0.0))[0]
            yield cell(worker, died, where in self._lit, where == self._picked, self.glyphs)

    def _departed(self, app: AppSnapshot) -> Iterator[Row]:
        """Those that died and have no successor, for as long as a death is remembered."""
        present = {worker.slot for worker in app.workers}
        for (name, slot), (pid, _) in self._deaths.items():
            if name == app.name and slot not in present:
                yield ((f"{self.glyphs.dead} {pid}", "bad"),)


def _policy(app: AppSnapshot) -> str:
    """`static 3`, or `dynamic 2 of 5` where a pool may have more than it wants now."""
    most = f" of {app.max_workers}" if app.wanted < app.max_workers and app.unavailable is None else ""
    return f"{app.policy} {app.wanted}{most}"


def _rates(snapshot: LabSnapshot, gap: str) -> Row:
    own = f"{gap}+ {snapshot.own.rate:g}/s own" if snapshot.own.rate else ""
    return ((f"{figures.rate(snapshot.totals.rps)}/s", "strong"), (own, "dim"))


def _wrap(cells: Sequence[Row], width: int) -> list[Row]:
    """Cells side by side in columns of equal width; one that is wider than everything continues on rows below."""
    column = min(max([14, *(length(one) for one in cells if length(one) <= 24)]) + 2, max(width, 1))
    rows: list[Row] = []
    line: Row = ()
    for one in cells:
        wanted = -(-(length(one) + 2) // column) * column
        if line and length(line) + wanted - 2 > width:
            rows.append(line)
            line = ()
        if length(one) > width:
            rows += _broken(one, width)
        else:
            line = (*line, *one, (" " * (wanted - length(one)), "text"))
    return [*rows, line] if line else rows


def _broken(cell: Row, width: int) -> list[Row]:
    """One cell on several rows: its last text is what is too long."""
    *start, (text, role) = cell
    indent = " " * min(length(tuple(start)), max(0, width - 1))
    first, *more = textwrap.wrap(text, max(1, width), initial_indent=indent, subsequent_indent="  ") or [""]
    return [(*start, (first.lstrip(), role)), *(((line, role),) for line in more)]
