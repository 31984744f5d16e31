"""The way of a request, drawn: clients, proxy, apps, and one cell for each worker.

A cell lights while its worker answers. A killed worker is seen to die: its cell keeps the dead PID beside its
successor's for a few seconds, because the healing itself is over long before a screen can show it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lab.core.events import Event, EventKind
from lab.core.model import Contract, is_file
from lab.core.snapshot import AppSnapshot, LabSnapshot
from lab.core.spelling import counted
from lab.core.states import DELIBERATE, BreakerState, Policy, WorkerState
from lab.pool.php import FPM
from lab.tui import figures
from lab.tui.looks import absence
from lab.tui.painting import Painted, Row, Span, fit, length
from lab.tui.widgets.cells import Death, route_cells, service_cell, worker_cell, wrap

REMEMBERED_S = 3.0
"""How long a death stays in its cell."""
_TREE_FROM = 64
"""Width from which the way is drawn as a tree; below it, apps stand under one another."""
_ROOMY = 6
"""With more apps than this, each takes one row where it can, ..."""
_ROOMY_TREE_FROM = 90
"""... and it takes this width to have room for the tree beside them."""
_NAME = 18
"""The most room that names take where each app has one row, ..."""
_CELL = 22
"""... and the least that cells take, so that what follows them stands in one column."""

Place = tuple[str, int]
"""An app and a slot in it."""


class Flow(Painted):
    """Clients, proxy, apps and workers. Looks right from 38 columns up."""

    HELP = (
        "The way of a request: clients send it to the proxy, the proxy picks a worker of the app by its policy (such "
        "as round robin), the worker answers.\n\n"
        "Behind an app's name stand its language, how its workers get their socket (http-port, fastcgi, ...), its "
        "policy, and how the proxy picks among them. `dynamic 2 of 1-5`: the policy wants 2 workers now, never less "
        "than 1 or more than 5. `scaled 1-8 by queue`: autoscaling moves the most by that metric. Under cgi there are "
        "no workers: each request gets a process of its own. PHP-FPM is one worker here; its policy is about its "
        "children.\n\n"
        "Each cell is one real process, named by its PID. The bar and the number are its median latency, from 0.1 ms "
        "(empty) to 1 s (full, each quarter ten times more). A cell lights when its worker has just answered.\n\n"
        "A worker that dies leaves its PID beside its successor's for three seconds. One that stands by is READY and "
        "gets no requests, until it takes the place of one that died. Where workers share one socket, only the kernel "
        "knows who answers: they have no figures.\n\n"
        "The proxy judges by answers: a worker that `fails its check`, or is `ejected` because requests failed there, "
        "is sent none; in a panic too few are left, and all are used again. While a `breaker` is open, requests are "
        "refused at once. `2 tunnels`: WebSockets and the like that are open; each has a place at its worker. "
        "`9 shed`: so many requests for the app were refused by a limit until now.\n\n"
        "A shared route leads to several apps, as a canary does: `next 1 of 10, got 9.8 %` means that each tenth "
        "request is meant for the app called next, and what it was really sent in the last ten seconds. The command "
        "shift changes the weights.\n\n"
        "Below stand the processes beside the pool, which apps may need before their first worker starts.\n\n"
        "y copies a curl command that sends a request of your own."
    )
    can_focus = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._snapshot: LabSnapshot | None = None
        self._deaths: dict[Place, Death] = {}
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
        trusting = f"--cacert '{self._snapshot.certificate}' " if self._snapshot.certificate else ""
        return f"curl {trusting}'{self._snapshot.listener}{self._snapshot.apps[0].route}'"

    def rows(self, width: int) -> Sequence[Row]:
        if self._snapshot is None:
            return ((("waiting for the first picture of the lab", "dim"),),)
        crowded = len(self._snapshot.apps) > _ROOMY
        tree = width >= (_ROOMY_TREE_FROM if crowded else _TREE_FROM)
        return self._tree(self._snapshot, width) if tree else self._list(self._snapshot, width)

    def _note_deaths(self, events: Iterable[Event], now: float) -> None:
        for event in events:
            dead = event.kind is EventKind.STATE and event.state is WorkerState.EXITED
            if dead and event.pid is not None and event.app is not None and event.slot is not None:
                self._deaths[event.app, event.slot] = Death(event.pid, event.at, event.cause in DELIBERATE)
        self._deaths = {where: death for where, death in self._deaths.items() if now - death.at < REMEMBERED_S}

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
        for block in self._blocks(snapshot, width):
            rows += block
        for title, about in self._sections(snapshot, width - 2):
            rows += [((title, "dim"),), *_indented(about, 2)]
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
        rows: list[Row] = [(start, (joint, "dim"), *row) for start, (joint, row) in zip(left, branches, strict=True)]
        for title, (first, *more) in self._sections(snapshot, width - indent - 3):
            rows += [((fit(title, indent + 3), "dim"), *first), *_indented(more, indent + 3)]
        return rows

    def _branches(self, snapshot: LabSnapshot, width: int) -> Iterator[tuple[str, Row]]:
        """Each app's rows with the piece of the tree that stands before them."""
        last = len(snapshot.apps) - 1
        for number, (head, *cells) in enumerate(self._blocks(snapshot, width)):
            yield self._joint(number, last) + self.glyphs.arrow + " ", head
            for row in cells:
                yield (f"{self.glyphs.pipe}  " if number < last else "   "), row

    def _joint(self, number: int, last: int) -> str:
        if number == 0:
            return self.glyphs.fork if last else self.glyphs.wire
        return self.glyphs.corner if number == last else self.glyphs.tee

    def _blocks(self, snapshot: LabSnapshot, width: int) -> Iterator[list[Row]]:
        """The rows of each app. Where there are many apps, cells stand behind the names and not below them."""
        names = min(_NAME, max((len(app.name) for app in snapshot.apps), default=0))
        for app in snapshot.apps:
            if len(snapshot.apps) <= _ROOMY:
                yield [self._head(app, width), *_indented(self._cells(app, width - 2), 2)]
            else:
                yield self._line(app, names, width)

    def _head(self, app: AppSnapshot, width: int) -> Row:
        """Name, nature and figures of an app, as far as there is room beside what keeps requests from it."""
        loud = tuple((f"  {text}", role) for text, role in _waiting(app))
        room = width - length(loud)
        nature = _nature(app)
        dot = f" {self.glyphs.dot} "
        while nature and len(app.name) + 2 + len(dot.join(nature)) > room:
            nature.pop()
        row: Row = ((app.name, "head"), (f"  {dot.join(nature)}", "dim"))
        latency = f"  {_rate(app)[0]}  p99 {figures.milliseconds(app.p99_ms)}"
        if length(row) + len(latency) <= room:
            row = (*row, (latency, "text"))
        row = (*row, *loud)
        for text, role in _apart(app):
            if length(row) + 2 + len(text) <= width:
                row = (*row, (f"  {text}", role))
        return row

    def _line(self, app: AppSnapshot, names: int, width: int) -> list[Row]:
        """An app on one row: name, cells, nature. Cells that do not fit continue below, and then go before nature."""
        first, *more = self._cells(app, width - names - 2, *_waiting(app), *_apart(app))
        row: Row = ((fit(app.name, names, self.glyphs.more), "head"), ("  ", "text"), *first)
        row = (*row, (" " * max(2, names + 2 + _CELL - length(row)), "text"))
        about: list[Span] = [(text, "dim") for text in reversed(_nature(app)[:2])]
        if app.rps:
            about.append(_rate(app))
        dot = ""
        for text, role in about:
            if length(row) + len(dot) + len(text) > width:
                break
            row = (*row, (dot, "dim"), (text, role))
            dot = f" {self.glyphs.dot} "
        return [row, *_indented(more, names + 2)]

    def _cells(self, app: AppSnapshot, width: int, *after: Span) -> list[Row]:
        """The app's workers, or why there are none, then `after`: wrapped into rows of equal columns."""
        cells = [*self._workers(app), *self._departed(app)]
        lone = absence(app, self._snapshot.processes if self._snapshot is not None else ())
        if not cells or lone.role != "dim":
            cells.insert(0, ((f"{lone.sign(self.glyphs)} {lone.word}", lone.role),))
        return wrap([*cells, *((span,) for span in after)], width)

    def _workers(self, app: AppSnapshot) -> Iterator[Row]:
        for worker in app.workers:
            where = (app.name, worker.slot)
            yield worker_cell(worker, self._deaths.get(where), where in self._lit, where == self._picked, self.glyphs)

    def _departed(self, app: AppSnapshot) -> Iterator[Row]:
        """Those that died and have no successor, for as long as a death is remembered."""
        present = {worker.slot for worker in app.workers}
        for (name, slot), death in self._deaths.items():
            if name == app.name and slot not in present:
                yield (death.sign(self.glyphs),)

    def _sections(self, snapshot: LabSnapshot, width: int) -> Iterator[tuple[str, list[Row]]]:
        """What stands below the apps, each under its title: routes that share their requests out, and processes."""
        shared = [route for route in snapshot.routes if len(route.leads) > 1]
        if shared:
            yield "shared routes", [row for route in shared for row in wrap(route_cells(route, self.glyphs), width)]
        if snapshot.processes:
            cells = [service_cell(process, self.glyphs) for process in snapshot.processes]
            yield "beside the pool", wrap(cells, width)


def _nature(app: AppSnapshot) -> list[str]:
    """What an app is, the most telling first."""
    language = f"{app.language} {app.protocol}"
    if app.protocol == Contract.CGI:
        return [language, f"at most {app.max_workers} at once"]
    return [language, _policy(app), _selection(app)]


def _selection(app: AppSnapshot) -> str:
    """Who chooses among the workers: a policy of the lab, or a file of one's own."""
    return app.selection.rpartition("/")[2] if is_file(app.selection) else app.selection.replace("_", " ")


def _policy(app: AppSnapshot) -> str:
    """`static 3`, or `dynamic 2 of 1-5`: what is wanted now, and the bounds; then how autoscaling moves them."""
    scaled = app.scaling
    moved = f", scaled {scaled.min_workers}-{scaled.max_workers} by {scaled.metric}" if scaled is not None else ""
    if app.policy == Policy.STATIC:
        return f"static {app.max_workers}{moved}"
    if app.language == FPM:  # how many children it wants now, only itself knows
        return f"{app.policy} {app.min_workers}-{app.max_workers}{moved}"
    return f"{app.policy} {app.wanted} of {app.min_workers}-{app.max_workers}{moved}"


def _rate(app: AppSnapshot) -> Span:
    return (f"{figures.rate(app.rps)}/s", "text")


def _waiting(app: AppSnapshot) -> list[Span]:
    """What keeps requests from its workers, or sends them to unwell ones: a queue, an open breaker, panic."""
    found: list[Span] = [(f"{app.queue} queue", "warn")] if app.queue else []
    breaker = app.breaker
    if breaker is not None and breaker.state is not BreakerState.CLOSED:
        left = f" {figures.seconds(breaker.probe_in_s)}" if breaker.probe_in_s is not None else ""
        found.append((f"breaker {breaker.state.replace('_', ' ')}{left}", "bad"))
    if app.panic:
        found.append(("panic", "bad"))
    return found


def _apart(app: AppSnapshot) -> list[Span]:
    """What its workers have beside requests, and which requests never reach them."""
    found: list[Span] = [(counted(app.tunnels, "tunnel"), "text")] if app.tunnels else []
    refused = sum(app.shed.values())
    return [*found, (f"{refused} shed", "dim")] if refused else found


def _rates(snapshot: LabSnapshot, gap: str) -> Row:
    own = f"{gap}+ {snapshot.own.rate:g}/s own" if snapshot.own.rate else ""
    return ((f"{figures.rate(snapshot.totals.rps)}/s", "strong"), (own, "dim"))


def _indented(rows: Iterable[Row], by: int) -> list[Row]:
    return [((" " * by, "text"), *row) for row in rows]
