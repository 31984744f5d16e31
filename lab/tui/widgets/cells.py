"""The cells of the flow: a worker, a route, a process beside the pool, and how cells stand side by side."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

from lab.core.snapshot import RouteSnapshot, ServiceSnapshot, WorkerSnapshot
from lab.core.states import ServiceState
from lab.tui import figures
from lab.tui.glyphs import Glyphs
from lab.tui.looks import SERVICE_LOOKS, look, words
from lab.tui.painting import Row, Span, length

_BAR = 4
_COLUMN = 14
"""The least that a cell takes, without the gap to the next; what is longer than `_WIDEST` does not widen the others."""
_WIDEST = 24


@dataclass(frozen=True, slots=True)
class Death:
    """A process that was in a slot a moment ago. `asked_for` when it ended because the pool was told so."""

    pid: int
    at: float
    asked_for: bool = False

    def sign(self, glyphs: Glyphs) -> Span:
        """Its PID, crossed out."""
        return (f"{glyphs.dead} {self.pid}", "dim" if self.asked_for else "bad")


def bar(ms: float | None, width: int, bars: str) -> str:
    """A latency as a bar on a logarithmic scale: empty at 0.1 ms, full at 1 s."""
    if ms is None or ms <= 0.1:
        return (bars[1] if ms else bars[0]).ljust(width)
    steps = len(bars) - 1
    filled = max(1, min(width * steps, round(width * steps * (log10(ms) + 1) / 4)))
    whole, part = divmod(filled, steps)
    return (bars[-1] * whole + (bars[part] if part else "")).ljust(width)


def worker_cell(worker: WorkerSnapshot, died: Death | None, lit: bool, picked: bool, glyphs: Glyphs) -> Row:
    """One worker: sign, PID, and what there is to say about it. `died` is who was here a moment ago."""
    seen = look(worker)
    pid = str(worker.pid) if worker.pid is not None else ""
    if died is not None and died.pid != worker.pid:
        after = f"{seen.sign(glyphs)} {pid or words(worker)}"
        return (died.sign(glyphs), (f" {glyphs.wire}{glyphs.arrow} ", "dim"), (after, seen.role))
    role = "picked" if picked else ("strong" if lit else "text")
    sign: Row = ((seen.sign(glyphs) + " ", seen.role), (pid or f"slot {worker.slot}", role), (" ", "text"))
    if seen.word == "ready":
        meter = bar(worker.p50_ms, _BAR, glyphs.bars)
        return (*sign, (meter, "accent" if lit else "dim"), _p50(worker))
    return (*sign, (words(worker), seen.role))


def service_cell(service: ServiceSnapshot, glyphs: Glyphs) -> Row:
    """One process beside the pool: sign, name and PID; its state in words, and why, where it is not healthy."""
    seen = SERVICE_LOOKS[service.state]
    sign: Row = ((seen.sign(glyphs) + " ", seen.role), (f"{service.name} ", "text"))
    if service.state is ServiceState.HEALTHY:
        return (*sign, (str(service.pid) if service.pid is not None else "", "dim"))
    why = f": {service.why[0].lower()}{service.why[1:].rstrip('.')}" if service.why else ""
    return (*sign, (f"{seen.word}{why}", seen.role))


def route_cells(route: RouteSnapshot, glyphs: Glyphs) -> list[Row]:
    """A route that leads to several apps: its name and path, then each app with its part, meant and real."""
    whole = sum(lead.weight for lead in route.leads)
    cells: list[Row] = [((route.name, "head"), (f" {route.takes}", "dim"))]
    for lead in route.leads:
        real = "" if lead.share is None else f", got {lead.share:.1f} %"
        arrow = f"{glyphs.wire}{glyphs.arrow} "
        cells.append(((arrow, "dim"), (f"{lead.app} ", "text"), (f"{lead.weight} of {whole}{real}", "dim")))
    return cells


def wrap(cells: Sequence[Row], width: int) -> list[Row]:
    """Cells side by side in columns of equal width; one that is wider than everything continues on rows below."""
    column = min(max([_COLUMN, *(length(one) for one in cells if length(one) <= _WIDEST)]) + 2, max(width, 1))
    rows: list[Row] = []
    line: Row = ()
    used = 0
    for one in cells:
        if line and used + length(one) > width:
            rows.append(line)
            line, used = (), 0
        if length(one) > width:
            rows += _broken(one, width)
        else:
            line = (*line, (" " * (used - length(line)), "text"), *one)
            used += -(-(length(one) + 2) // column) * column
    return [*rows, line] if line else rows


def _p50(worker: WorkerSnapshot) -> Span:
    return (f" {figures.milliseconds(worker.p50_ms)}" if worker.p50_ms is not None else "", "dim")


def _broken(cell: Row, width: int) -> list[Row]:
    """One cell on several rows: its last text is what is too long."""
    *start, (text, role) = cell
    indent = " " * min(length(tuple(start)), max(0, width - 1))
    first, *more = textwrap.wrap(text, max(1, width), initial_indent=indent, subsequent_indent="  ") or [""]
    return [(*start, (first.lstrip(), role)), *(((line, role),) for line in more)]
