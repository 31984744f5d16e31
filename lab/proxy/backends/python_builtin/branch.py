"""Routes while they run: what each sends to each app, and whose turn it is where one leads to several.

A request is counted where its route and its app are known both, in a `Branch`; what an app or a route had in all is the
sum of its branches. So a further route costs no request anything. A route that leads to one app and rewrites nothing
is not even passed through: the table of routes has its one branch, whose destination is the app's.

Weights hold among the apps that can answer. One that is unavailable, has no endpoint that is well, or whose circuit
breaker would refuse the request gets no turn while another one with a weight can have it; when none can, all take turns
as before, and each gives its own answer. A breaker that may be probed again gets its turn, so a canary that has
recovered comes back by itself. Traefik's weighted services do the same for health checks when asked to (traefik#8057).
Envoy's weighted clusters do not look at health, and a canary that is down fails its share of the requests
(envoy#43150); but who moves a share of the traffic to a new version wants to find out whether it is good, and not to
lose requests by it.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from lab.core.model import RouteSpec
from lab.core.snapshot import LeadSnapshot, RouteSnapshot
from lab.proxy.accounting import WINDOW, Tally
from lab.proxy.manager import Figures, UpstreamSpec
from lab.proxy.routes import described, replaced
from lab.proxy.turns import next_turn

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.exchange import Exchange
    from lab.proxy.backends.python_builtin.gateway import Destination
    from lab.proxy.backends.python_builtin.upstream import Upstream


class Branch:
    """One route's way to one app, and every request that took it."""

    __slots__ = (
        "_marks",
        "accepted",
        "app",
        "base",
        "credit",
        "destination",
        "name",
        "strip",
        "tallies",
        "tunnels_ended",
        "unanswered",
        "upstream",
        "weight",
    )

    def __init__(self, name: str, app: str, now: float) -> None:
        self.name = name
        """The route's."""
        self.app = app
        self.destination: Destination
        self.upstream: Upstream
        self.base = ""
        """The part of a path that leads to the app, which CGI and FastCGI programs are told as SCRIPT_NAME."""
        self.strip = b""
        """A prefix that workers who speak HTTP are not told; empty for nearly all routes."""
        self.accepted = 0
        """Requests that it took charge of, the lab's own included."""
        self.unanswered = 0
        """Those that ended here without an answer: the client left, or a program had another path answer instead."""
        self.tallies = (Tally(now), Tally(now))
        """The others: everybody's, and the lab's own."""
        self.tunnels_ended = Counter[str]()
        """Tunnels that are over, by how they ended."""
        self.weight = 1
        self.credit = 0
        self._marks: deque[int] = deque([0], maxlen=WINDOW + 1)

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return self.accepted - self.unanswered - sum(sum(tally.classes) for tally in self.tallies)

    @property
    def recently(self) -> int:
        """Requests that it took in the last ten seconds."""
        return self.accepted - self._marks[0]

    def mark(self, now: float) -> None:
        """Remember what was counted until `now`; once a second."""
        self._marks.append(self.accepted)
        for tally in self.tallies:
            tally.mark(now)

    def absorb(self, other: "Branch") -> None:
        """Add all that another one counted before the last ten seconds."""
        self.accepted += other.accepted
        self.unanswered += other.unanswered
        self.tunnels_ended += other.tunnels_ended
        self._marks = deque((mark + other.accepted for mark in self._marks), maxlen=WINDOW + 1)
        for tally, its in zip(self.tallies, other.tallies, strict=True):
            tally.absorb(its)


NOWHERE: Final = Branch("", "", 0.0)
"""Where a request is that no route has taken yet."""


class RouteState:
    """A route, where it leads and what came of that."""

    def __init__(self, spec: RouteSpec, starved: Callable[[str], None], now: float) -> None:
        """`starved` hears of an app whose turn cannot come because it has no endpoint."""
        self.spec = spec
        self.branches: dict[str, Branch] = {}
        """By app, also to those that it leads to no longer."""
        self._leads: tuple[Branch, ...] = ()
        self._entry = Branch(spec.name, "", now)
        self._entry.destination = self
        self._starved = starved

    def apply(self, spec: RouteSpec) -> None:
        """Follow a new spec; `branches` has all that it leads to. With other weights the turns begin anew."""
        leads = tuple(self.branches[app] for app in spec.apps)
        if leads != self._leads or spec.apps != self.spec.apps:
            for lead in leads:
                lead.weight, lead.credit = spec.apps[lead.app], 0
        for lead in leads:
            lead.strip = spec.path.encode() if spec.strip_prefix else b""
        self.spec, self._leads = spec, leads

    @property
    def entry(self) -> Branch:
        """What the table of routes has to name: the only branch, when there is nothing to be decided."""
        return self._entry if len(self._leads) > 1 or self.spec.rewrite else self._leads[0]

    def admit(self, exchange: "Exchange") -> None:
        """Rewrite the request if it has to be, and send it on to the app whose turn it is."""
        spec = self.spec
        if spec.rewrite:
            exchange.rewrite(replaced(exchange.request.target, spec.path.encode(), spec.rewrite.encode()))
        exchange.route = branch = self._next()
        branch.destination.admit(exchange)

    def view(self, now: float) -> RouteSnapshot:
        """What is known of its traffic."""
        return view(self.spec, list(self.branches.values()), self._leads, now)

    def figures(self) -> Figures:
        """Everything that was counted on it."""
        return branch_figures(list(self.branches.values()))

    def _next(self) -> Branch:
        ready = []
        for lead in self._leads:
            if not lead.upstream.ready:
                if lead.weight:
                    self._starved(lead.app)
            elif not lead.upstream.guard.refuses:
                ready.append(lead)
        return next_turn(ready) or next_turn(self._leads) or self._leads[0]


def implied(upstream: UpstreamSpec) -> RouteSpec:
    """An app's own route."""
    return RouteSpec(name=upstream.app, apps={upstream.app: 1}, path=upstream.route)


def base(route: RouteSpec, own: str) -> str:
    """The part of a path on `route` that leads to an app whose own route is `own`: what CGI calls SCRIPT_NAME.

    Where the route leads below the app's own, that is the app's own, so that a path means the same by both.
    """
    path = (route.rewrite or route.path).rstrip("/")
    return own if f"{path}/".startswith(f"{own.rstrip('/')}/") else path


def branch_figures(branches: Sequence[Branch]) -> Figures:
    """Everything that was counted on several ways together."""
    tally = Tally.together([tally for branch in branches for tally in branch.tallies])
    accepted = sum(branch.accepted for branch in branches)
    figures = tally.figures(accepted, sum(branch.in_flight for branch in branches))
    return replace(figures, tunnels_ended=sum((branch.tunnels_ended for branch in branches), Counter[str]()))


def view(spec: RouteSpec, branches: Sequence[Branch], leads: Sequence[Branch], now: float) -> RouteSnapshot:
    """A route's traffic: that of all its `branches`; it leads to `leads`."""
    tally = Tally.together([tally for branch in branches for tally in branch.tallies])
    recent, classes = tally.recent(now), tuple(tally.classes[:6])
    lately = sum(lead.recently for lead in leads)
    return RouteSnapshot(
        name=spec.name,
        takes=described(spec),
        implied=spec.apps.keys() == {spec.name},
        requests=sum(branch.accepted for branch in branches),
        in_flight=sum(branch.in_flight for branch in branches),
        classes=classes,
        errors=classes[0] + classes[5],
        rps=recent.rps,
        p50_ms=recent.p50_ms,
        p95_ms=recent.p95_ms,
        p99_ms=recent.p99_ms,
        leads=tuple(
            LeadSnapshot(
                app=lead.app,
                weight=lead.weight,
                requests=lead.accepted,
                share=100 * lead.recently / lately if lately else None,
            )
            for lead in leads
        ),
    )
