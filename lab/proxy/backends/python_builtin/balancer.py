"""Which endpoint gets a request: those of one app that have a place, and the policy that chooses among them.

The set of endpoints with a place is kept up to date, not looked for: one comes and goes in no time, however many there
are, and a policy finds them in a list in which it can point anywhere. What the policy does not ask for (its optional
methods, times, weights) is not done.
"""

import math
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from lab import plugins
from lab.core.errors import UnavailableError
from lab.core.events import EventKind, EventRing
from lab.core.model import Queue, is_file
from lab.proxy.backends.python_builtin.asked import Asked
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.ewma import PeakEwma
from lab.proxy.manager import UpstreamSpec
from lab.proxy.selection import Request, SelectionPolicy
from lab.proxy.selection.round_robin import RoundRobin
from lab.proxy.selection.written import WrittenPolicy
from lab.proxy.slow_start import share
from lab.proxy.timeouts import Timed

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.endpoint import EndpointState
    from lab.proxy.backends.python_builtin.exchange import Exchange

_WEIGH_EVERY: Final = 0.1
"""Seconds between two looks at how far slow starts have come."""

_slot = attrgetter("slot")


class Balancer(Timed):
    """An app's endpoints as far as they may be chosen. Its deadline is the next look at slow starts."""

    def __init__(self, spec: UpstreamSpec, gateway: Gateway, events: EventRing) -> None:
        super().__init__()
        self.offered: list[EndpointState] = []
        """Those with a place, in no order. Each knows its position."""
        self.everyone: tuple[EndpointState, ...] = ()
        """All that are routed to, by slot."""
        self._spec = spec
        self._gateway = gateway
        self._events = events
        self._asked = Asked()
        self.choices = 0
        """How many there were. An endpoint has in `chosen` the number of its last one."""
        self._follow(self._load(spec.selection))

    def apply(self, spec: UpstreamSpec) -> None:
        """Follow a new spec: another policy begins anew, the same one goes on with what it knows."""
        before, self._spec = self._spec, spec
        if spec.selection != before.selection:
            self.close()
            self._follow(self._load(spec.selection))
        elif isinstance(self._policy, WrittenPolicy) and spec.edition != before.edition:
            self._policy.read()
        if self._configure is not None:
            self._configure(spec)
        if (spec.weights, spec.slow_start) != (before.weights, before.slow_start):
            self._weigh()

    def close(self) -> None:
        """Its policy is asked no more."""
        if isinstance(self._policy, WrittenPolicy):
            self._policy.close()

    @property
    def stuck_at(self) -> str:
        """Where a policy of one's own keeps everybody waiting; empty while it does not. From any thread."""
        return self._policy.stuck_at if isinstance(self._policy, WrittenPolicy) else ""

    def join(self, state: "EndpointState") -> None:
        """An endpoint is routed to from now on. Whether it has a place is said by `offer`."""
        self._know((*self.everyone, state))
        state.peak = PeakEwma() if self._measures else None
        self.warm(state)

    def warm(self, state: "EndpointState") -> None:
        """It is new, or well again: its slow start begins."""
        state.since = self._gateway.now()
        self._weigh()

    def leave(self, state: "EndpointState") -> None:
        """It is routed to no more."""
        self._know(tuple(one for one in self.everyone if one is not state))
        if state.position >= 0:
            self.withdraw(state)

    def room(self, state: "EndpointState") -> float:
        """The most requests that an endpoint may be given: its places, or without end where it has its own queue; none
        while it is held back for its health."""
        if not state.eligible:
            return 0
        return state.places if self._spec.queue is Queue.UPSTREAM else math.inf

    def offer(self, state: "EndpointState") -> None:
        """It has a place."""
        state.position = len(self.offered)
        self.offered.append(state)
        if self._on_offered is not None:
            self._on_offered(state)

    def withdraw(self, state: "EndpointState") -> None:
        """It has none any more: the last one moves up to its position."""
        last = self.offered.pop()
        if last is not state:
            self.offered[state.position] = last
            last.position = state.position
        state.position = -1
        if self._on_withdrawn is not None:
            self._on_withdrawn(state)

    def choose(self, exchange: "Exchange") -> "EndpointState | None":
        """One with a place for a request that has not been there; None when there is none, or when the request has to
        wait for the one to which it belongs."""
        if self._home is not None:
            self._asked.exchange = exchange
            home = self._home(self._asked)
            if home is not None and home.eligible and home not in exchange.tried:
                exchange.home = home
                return home if home.position >= 0 else None
            exchange.home = None
        offered = self.offered if exchange.retrial is None else self._untried(exchange)
        if len(offered) < 2:
            return offered[0] if offered else None
        asked, choose = self._asked, self._choose
        asked.exchange = exchange
        return choose(offered, asked)

    def assigned(self, exchange: "Exchange", state: "EndpointState") -> None:
        """Tell a policy that wants to know that a request goes to `state`, chosen just now or from the queue."""
        if self.on_assigned is not None:
            self._asked.exchange = exchange
            self.on_assigned(state, self._asked)

    def expired(self) -> None:
        self._weigh()

    def _untried(self, exchange: "Exchange") -> "list[EndpointState]":
        return [state for state in self.offered if state not in exchange.tried]

    def _load(self, name: str) -> "SelectionPolicy[EndpointState]":
        if not is_file(name):
            return self._plug_in(name)
        written: WrittenPolicy[EndpointState] = WrittenPolicy(name, self._gateway.now, self._tell)
        written.read()
        return written

    def _plug_in(self, name: str) -> "SelectionPolicy[EndpointState]":
        """A policy by its name. One that somebody installed and that cannot be loaded is no reason to serve nobody."""
        try:
            policy: SelectionPolicy[EndpointState] = plugins.load("cgilab.selection", name)()
        except UnavailableError as error:
            self._tell(f"{error} Requests go on by round robin", {})
            return RoundRobin()
        return policy

    def _follow(self, policy: "SelectionPolicy[EndpointState]") -> None:
        """Have a policy choose from now on."""
        self._policy = policy
        self._choose = policy.choose
        self._configure: Callable[[UpstreamSpec], None] | None = getattr(policy, "configure", None)
        self._on_offered: Callable[[EndpointState], None] | None = getattr(policy, "offered", None)
        self._on_withdrawn: Callable[[EndpointState], None] | None = getattr(policy, "withdrawn", None)
        self.on_assigned: Callable[[EndpointState, Request[EndpointState]], None] | None = getattr(
            policy, "assigned", None
        )
        self._home: Callable[[Request[EndpointState]], EndpointState | None] | None = getattr(policy, "home", None)
        self._measures: bool = getattr(policy, "measures", False)
        for state in self.everyone:
            state.peak = PeakEwma() if self._measures else None
        if self._configure is not None:
            self._configure(self._spec)
        if self._on_offered is not None:
            for state in self.offered:
                self._on_offered(state)

    def _know(self, everyone: "tuple[EndpointState, ...]") -> None:
        self.everyone = self._asked.everyone = tuple(sorted(everyone, key=_slot))

    def _weigh(self) -> None:
        """Set every weight, and come back while one of them still grows."""
        now, seconds, weights = self._gateway.now(), self._spec.slow_start, self._spec.weights
        grows = False
        equal: dict[float, float] = {}
        """One object for equal weights: a thousand of them would be a thousand places in memory to look at."""
        for state in self.everyone:
            full = weights[state.slot] if state.slot < len(weights) else 1
            part = share(now - state.since, seconds)
            state.weight = equal.setdefault(full * part, full * part)
            grows = grows or part < 1.0
        if grows:
            self._gateway.wheel.arm(self, now + _WEIGH_EVERY)

    def _tell(self, text: str, data: dict[str, object]) -> None:
        self._events.emit(EventKind.SELECTION, f"{self._spec.app}: {text}", app=self._spec.app, data=data)
