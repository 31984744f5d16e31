"""An app's endpoints, and the queue of requests before the places that they have.

The queue is served first come, first served, at the instant a place is freed or an endpoint appears: no request ever
waits while there is a place that it could have.
"""

from collections import OrderedDict
from collections.abc import Container
from typing import Final

from lab.core.events import EventKind, EventRing
from lab.core.model import Endpoint
from lab.proxy import problems
from lab.proxy.accounting import Tally
from lab.proxy.backends.python_builtin.balancer import Balancer
from lab.proxy.backends.python_builtin.branch import Branch, branch_figures
from lab.proxy.backends.python_builtin.door import Door
from lab.proxy.backends.python_builtin.endpoint import EndpointState
from lab.proxy.backends.python_builtin.exchange import Exchange
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.backends.python_builtin.guard import Guard
from lab.proxy.manager import EndpointView, Figures, UpstreamSpec, UpstreamView
from lab.wire import cgi

_TELL_EVERY: Final = 1.0
"""Seconds between two events about what an app's programs do wrong: a broken one does it with every request."""


class Upstream:
    """One app's endpoints and queue."""

    def __init__(self, spec: UpstreamSpec, gateway: Gateway, events: EventRing) -> None:
        self.spec = spec
        self._total = spec.timeouts.total
        self._sheds = spec.shedding.target > 0
        self.branch = Branch(spec.app, spec.app, gateway.now())
        """What comes by its own route."""
        self._branches = {spec.app: self.branch}
        """By the names of routes that lead here, or did a moment ago."""
        self._past: Branch | None = None
        """What came by routes that are gone."""
        self._gateway = gateway
        self._events = events
        self._balancer = Balancer(spec, gateway, events)
        self.queue: OrderedDict[Exchange, None] = OrderedDict()
        """Requests that wait for a place, longest first: to be read."""
        self._longest = 0
        self._active = self._most_active = 0
        self._idle = 0
        """Endpoints that may be chosen and have nothing in flight."""
        self._full = False
        self._quiet_until = 0.0
        self._untold = 0
        self._standing_since = 0.0
        """When the queue ceased to be empty."""
        self._own_door = Door(self, gateway)
        self.guard = Guard(self, gateway, events)
        self._settle()

    def apply(self, spec: UpstreamSpec) -> None:
        """Follow a new spec. Requests that wait go on waiting, unless the app has become unavailable."""
        before, self.spec = self.spec, spec
        self._total = spec.timeouts.total
        self._sheds = spec.shedding.target > 0
        self._own_door.apply(spec.rate_limit)
        self._settle()  # for who is let in by what follows, and once more when the guard has followed, too
        self._balancer.apply(spec)
        if spec.queue is not before.queue:
            for state in self.routed:
                self._count_places(state)
        self.guard.apply(spec)
        self._settle()
        if spec.unavailable is not None:
            self.close(problems.unavailable(spec.app, spec.unavailable))

    def branch_of(self, route: str) -> Branch:
        """Where the requests are counted that come here by a route, new or as it was."""
        branch = self._branches.get(route)
        if branch is None:
            branch = self._branches[route] = Branch(route, self.spec.app, self._gateway.now())
        return branch

    def mark(self, now: float, routes: Container[str]) -> None:
        """Remember what was counted until `now`; once a second. Of `routes` that are gone only the sum is kept."""
        gone = [name for name, branch in self._branches.items() if name not in routes and not branch.in_flight]
        for name in gone:
            self._past = self._past or Branch("", self.spec.app, now)
            self._past.absorb(self._branches.pop(name))
        for branch in self._all_branches():
            branch.mark(now)
        self.guard.budget.mark(now, self.accepted)

    @property
    def latencies(self) -> tuple[Tally, Tally]:
        """Everybody's requests, and the lab's own, by whichever route they came: to be read."""
        everybody, own = zip(*(branch.tallies for branch in self._all_branches()), strict=True)
        return Tally.together(everybody), Tally.together(own)

    @property
    def routed(self) -> tuple[EndpointState, ...]:
        """Its endpoints, by slot."""
        return self._balancer.everyone

    @property
    def ready(self) -> bool:
        """There is an endpoint that may be chosen, if not at this moment."""
        return self.spec.unavailable is None and any(state.eligible for state in self.routed)

    @property
    def stuck_at(self) -> str:
        """Where its policy, if it is one of one's own, keeps everybody waiting. From any thread."""
        return self._balancer.stuck_at

    def dissolve(self) -> None:
        """The app is gone, or the proxy ends."""
        self._balancer.close()
        self.guard.close()

    def close(self, problem: problems.Problem) -> None:
        """Answer everybody who waits with `problem`."""
        for exchange in list(self.queue):
            exchange.fail(problem)

    def add(self, state: EndpointState) -> None:
        """An endpoint may be chosen from now on."""
        state.routed = state.eligible = True
        self._balancer.join(state)
        self._idle += not state.in_flight
        self.guard.add(state)
        self._count_places(state)

    def remove(self, state: EndpointState) -> None:
        """It may not any more."""
        self._balancer.leave(state)
        self._idle -= state.eligible and not state.in_flight
        state.leave()
        self.guard.remove(state)
        self._forsake(state)

    def hold_back(self, state: EndpointState, held: bool) -> None:
        """Let a routed endpoint get nothing, although it has places; or let it have requests again."""
        if state.eligible is held:
            state.eligible = not held
            if not state.in_flight:
                self._idle += 1 if state.eligible else -1
            self._count_places(state)
            if held:
                self._forsake(state)
            else:
                self._balancer.warm(state)

    def claim(self, exchange: Exchange) -> None:
        """Count a request as one of this app's, whoever answers it. Where workers do, `admit` has done so."""
        exchange.upstream = self
        branch = exchange.route
        branch.accepted += 1
        exchange.latency = branch.tallies[exchange.downstream.own]
        if self._total:
            exchange.limit_time(self._total)

    def admit(self, exchange: Exchange) -> None:
        """Send a request to an endpoint, or let it wait, or shed it."""
        first = exchange.latency is None
        if first:  # it is claimed, in place
            exchange.upstream = self
            branch = exchange.route
            branch.accepted += 1
            exchange.latency = branch.tallies[exchange.downstream.own]
            if self._total:
                exchange.limit_time(self._total)
        if self._checks and not self._lets_in(exchange, first):
            return
        if first and exchange.upload is not None and exchange.upload.gather(self.spec.request_buffer):
            return
        if not self._idle and (exchange.retrial is None or not exchange.tried):
            self._gateway.on_starved(self.spec.app)
        chosen = self._balancer.choose(exchange)
        if chosen is None:
            self.wait(exchange)
        else:
            self._assign(exchange, chosen)

    def wait(self, exchange: Exchange) -> None:
        """Let a request wait for a place, or shed it when too many wait."""
        if len(self.queue) >= self.spec.queue_length:
            self._tell_full()
            exchange.fail(problems.queue_full(self.spec.app, self.spec.queue_length))
            return
        most = self._gateway.limits.pending
        if most and self._gateway.pending >= most:
            exchange.fail(problems.too_many_wait(most))
            return
        now = self._gateway.now()
        if not self.queue:
            self._standing_since = now
        self.queue[exchange] = None
        self._gateway.pending += 1
        self._longest = max(self._longest, len(self.queue))
        exchange.wait(now, self._patience(now))

    def script(self, base: str, target: bytes) -> cgi.Script:
        """The program that answers `target`, for an app without a site. `base` is the part of it that leads here.

        Raises `BadMessageError` for a bad path.
        """
        return cgi.script_below(self.spec.script, base, target)

    def tell(self, kind: EventKind, endpoint: Endpoint, detail: str, pid: int | None) -> None:
        """Emit an event about a program, at most one a second."""
        now = self._gateway.now()
        if now < self._quiet_until:
            self._untold += 1
            return
        who = f"CGI program of {self.spec.app}" if kind is EventKind.CGI else str(endpoint.worker)
        more = f" ({self._untold} more like this were not told)" if self._untold else ""
        self._quiet_until, self._untold = now + _TELL_EVERY, 0
        slot, generation = endpoint.worker.slot, endpoint.worker.generation
        self._events.emit(kind, f"{who}: {detail}{more}", app=self.spec.app, slot=slot, generation=generation, pid=pid)

    def serve(self, state: EndpointState) -> bool:
        """Give a free place of `state` to the request that waits longest. False when there is no place or request.

        A request that could not connect to it waits for another endpoint: it would only fail once more. And so does one
        that belongs to another.
        """
        while self.queue and state.in_flight < state.room:
            first = next(iter(self.queue))
            exchange = self._first_for(state) if first.retrial is not None or first.home is not None else first
            if exchange is None:
                return False
            self.withdraw(exchange)
            if exchange.is_late(self._sheds):
                continue
            if self._assign(exchange, state):  # else it is not ready for the place, and leaves it to the next
                return True
        return False

    def _first_for(self, state: EndpointState) -> Exchange | None:
        """Who waits longest of those that may be given to `state`."""
        fitting = (one for one in self.queue if state not in one.tried and (one.home is None or one.home is state))
        return next(fitting, None)

    def freed(self, state: EndpointState) -> None:
        """A routed endpoint has a place again: it goes to who waits first, else it is offered to those who come."""
        if self.queue:
            self.serve(state)
        if state.position < 0 and state.routed and state.in_flight < state.room:
            self._balancer.offer(state)

    def filled(self, state: EndpointState) -> None:
        """An endpoint that was offered has no place any more."""
        self._balancer.withdraw(state)

    def became_busy(self, routed: bool) -> None:
        """One of its endpoints has something to do; it is `routed`, or was removed."""
        self._idle -= routed
        self._active += 1
        self._most_active = max(self._most_active, self._active)

    def became_idle(self, routed: bool) -> None:
        """One of its endpoints has nothing to do any more."""
        self._idle += routed
        self._active -= 1

    def withdraw(self, exchange: Exchange) -> None:
        """A request waits no longer. Does nothing for one that was withdrawn already."""
        if exchange in self.queue:
            del self.queue[exchange]
            self._gateway.pending -= 1
            self._full = False

    def untried(self, exchange: Exchange) -> bool:
        """Whether a request that could not connect has another endpoint to try."""
        return any(state not in exchange.tried for state in self.routed if state.eligible)

    def elsewhere(self, exchange: Exchange) -> tuple[EndpointState, ...]:
        """Where a request that is sent again is not to go: where it has been, as far as there is somewhere else."""
        last = exchange.endpoint
        others = [state for state in self.routed if state.eligible and state is not last]
        tried = (*exchange.tried, last)
        if any(state not in tried for state in others):
            return tried
        return (last,) if others else ()

    @property
    def accepted(self) -> int:
        """Requests since the start, the lab's own included."""
        return sum(branch.accepted for branch in self._all_branches())

    @property
    def in_flight(self) -> int:
        """Requests that workers have."""
        return sum(state.in_flight for state in self.routed)

    @property
    def connections(self) -> int:
        """Connections to workers, those that wait for a request included."""
        return sum(state.connections for state in self.routed)

    def queue_timeout(self, patience: float) -> problems.Problem:
        """What a request is told that waited for its whole `patience` (s)."""
        if self.spec.shedding.target:
            return problems.overloaded(self.spec.app, patience)
        return problems.queue_timeout(self.spec.app, self.spec.timeouts.queue, len(self.routed))

    def view(self, endpoints: tuple[EndpointView, ...], now: float) -> UpstreamView:
        """What is known of its traffic."""
        everybody, own = self.latencies
        recent = everybody.recent(now, own)
        return UpstreamView(
            app=self.spec.app,
            accepted=self.accepted,
            queue=len(self.queue),
            max_queue=self._longest,
            max_active=self._most_active,
            rps=recent.rps,
            p50_ms=recent.p50_ms,
            p95_ms=recent.p95_ms,
            p99_ms=recent.p99_ms,
            endpoints=endpoints,
            breaker=self.guard.breaker_view(now),
            retries=self.guard.budget.spent,
            retries_left=self.guard.budget.left(now, self.accepted),
            panic=self.guard.panic,
            shed=dict(self._gateway.shed.get(self.spec.app, {})),
        )

    def figures(self) -> Figures:
        """Everything that was counted of it."""
        return branch_figures(self._all_branches())

    def _all_branches(self) -> list[Branch]:
        return [*self._branches.values(), *((self._past,) if self._past is not None else ())]

    def _patience(self, now: float) -> float:
        """Seconds that a request which comes now may wait for a place."""
        shedding = self.spec.shedding
        if not shedding.target:
            return self.spec.timeouts.queue
        return shedding.target if now - self._standing_since > shedding.interval else shedding.interval

    def _settle(self) -> None:
        """Find out who has to be asked and told: what is off is None. All that may refuse a request costs one look."""
        guard = self.guard
        self.door = self._own_door if self._own_door.watched else None
        """What a request has to pass first; None for nothing."""
        self._gate = guard if guard.gates else None
        self.watch = guard if guard.watches else None
        self._checks = self._gate is not None or self.door is not None or self.spec.unavailable is not None

    def _lets_in(self, exchange: Exchange, first: bool) -> bool:
        """Whether a request may have a worker; else it has been answered. `first`: it is here for the first time."""
        if first:
            # A site's door is passed before the disk is asked (files.py).
            if self.door is not None and self.spec.site is None and not self.door.admit(exchange):
                return False
            if self._gate is not None and not self._gate.admit(exchange):
                return False
        if self.spec.unavailable is not None:
            exchange.fail(problems.unavailable(self.spec.app, self.spec.unavailable))
            return False
        return True

    def _forsake(self, state: EndpointState) -> None:
        """Whoever waits for this endpoint alone waits for any from now on: it takes no requests."""
        homeless = [waiting for waiting in self.queue if waiting.home is state]
        for exchange in homeless:
            exchange.home = None
        if homeless:
            for other in tuple(self._balancer.offered):
                self._count_places(other)

    def _count_places(self, state: EndpointState) -> None:
        """See how many requests an endpoint may have open, and offer or withdraw it accordingly."""
        state.room = self._balancer.room(state)
        while self.serve(state):
            pass
        if state.position < 0:
            self.freed(state)
        elif state.in_flight >= state.room:
            self.filled(state)

    def _assign(self, exchange: Exchange, state: EndpointState) -> bool:
        """Give a request a place. False when it is not ready for one: it has been answered, or waits for its body."""
        if state.runs_programs and not exchange.prepare():
            return False
        balancer = self._balancer
        state.chosen = balancer.choices = balancer.choices + 1
        if balancer.on_assigned is not None:
            balancer.assigned(exchange, state)
        exchange.proceed(state)
        return True

    def _tell_full(self) -> None:
        """Once each time that it fills up: a flood of requests is not to become a flood of events."""
        if not self._full:
            self._full = True
            text = f"The queue of {self.spec.app} is full ({self.spec.queue_length} wait): further requests get 503"
            self._events.emit(EventKind.NOTE, text, app=self.spec.app)
