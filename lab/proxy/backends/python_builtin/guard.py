"""An app's health, as its requests meet it: which endpoints may be chosen, and whether a request may pass at all.

What is decided, the pure modules decide (health.py, outliers.py, breaker.py, retries.py); here they are told what
happens, and what they say is done: an endpoint is held back or offered again, a request is let through or refused, and
an event says why. An app that asks for none of it has a guard that nobody calls while requests pass.
"""

import math
from typing import TYPE_CHECKING

from lab.core.events import EventKind, EventRing
from lab.core.snapshot import BreakerSnapshot
from lab.core.states import BreakerState, EndpointHealth
from lab.proxy import problems
from lab.proxy.backends.python_builtin.checks import HealthChecks
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.breaker import Breaker, Transition, Verdict
from lab.proxy.manager import UpstreamSpec
from lab.proxy.outliers import Outliers
from lab.proxy.problems import Problem
from lab.proxy.retries import RetryBudget, RetryRules
from lab.proxy.timeouts import NEVER, Timed

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.endpoint import EndpointState
    from lab.proxy.backends.python_builtin.exchange import Exchange
    from lab.proxy.backends.python_builtin.upstream import Upstream

_HEALTHY, _UNHEALTHY, _EJECTED = EndpointHealth


class Guard(Timed):
    """One app's. Its deadline is the end of an ejection, or of an interval in which success rates are counted."""

    def __init__(self, upstream: "Upstream", gateway: Gateway, events: EventRing) -> None:
        super().__init__()
        now = gateway.now()
        self.panic = False
        """Too few endpoints are well, so all of them are offered."""
        self.breaker: Breaker | None = None
        self.retries = RetryRules(upstream.spec.retries)
        self.budget = RetryBudget(upstream.spec.retries, now)
        self._ill = 0
        """Endpoints that were not well at the last look."""
        self._upstream = upstream
        self._gateway = gateway
        self._events = events
        self._outliers: Outliers | None = None
        self._checks = HealthChecks(upstream, self._heard)
        self.apply(upstream.spec)

    def apply(self, spec: UpstreamSpec) -> None:
        """Follow the app's settings. What is switched off forgets what it knew; the rest goes on from where it is."""
        now = self._gateway.now()
        self.retries = RetryRules(spec.retries)
        self.budget.spec = spec.retries
        self._apply_breaker(spec, now)
        self._apply_outliers(spec, now)
        self._checks.apply()
        if not spec.health_check.interval:
            for state in self._upstream.routed:
                state.health.forget()
        self._review()

    @property
    def gates(self) -> bool:
        """Whether `admit` has to be asked."""
        return self.breaker is not None or bool(self._upstream.spec.breaker.max_requests)

    @property
    def watches(self) -> bool:
        """Whether `answered` and `failed` have to be told."""
        return self.breaker is not None or self._outliers is not None or bool(self.retries.statuses)

    def add(self, state: "EndpointState") -> None:
        """An endpoint has entered the upstream."""
        state.health.forget()
        state.record = None if self._outliers is None else self._outliers.add()
        state.judged = _HEALTHY
        self._checks.add(state)
        if self._ill:
            self._review()

    def remove(self, state: "EndpointState") -> None:
        """It has left."""
        self._checks.remove(state)
        if self._outliers is not None and state.record is not None:
            self._outliers.remove(state.record)
        state.record, state.judged = None, _HEALTHY
        if self._ill:
            self._review()

    def close(self) -> None:
        """The app is gone."""
        self._gateway.wheel.forget(self)
        self._checks.close()

    # -- requests

    def admit(self, exchange: "Exchange") -> bool:
        """Whether a request may pass; else it has been answered."""
        spec, app = self._upstream.spec.breaker, self._upstream.spec.app
        if spec.max_requests and self._upstream.in_flight >= spec.max_requests:
            exchange.fail(problems.too_many_requests(app, spec.max_requests))
            return False
        if self.breaker is None:
            return True
        now = self._gateway.now()
        verdict, transition = self.breaker.ask(now)
        self._tell_breaker(transition)
        if verdict is Verdict.REFUSE:
            exchange.fail(self._refusal(self.breaker, now))
            return False
        if verdict is Verdict.PROBE:
            exchange.probes = self.breaker
        return True

    def answered(self, exchange: "Exchange", status: int) -> bool:
        """A worker has answered a request with `status`. Whether such an answer is to be asked for elsewhere."""
        spec, now, record = self._upstream.spec, self._gateway.now(), exchange.endpoint.record
        wrong = status >= 500
        why = f"It answered with status {status}." if wrong else ""
        if self._outliers is not None and record is not None:
            if not (wrong and spec.outliers.server_errors):
                self._outliers.succeeded(record)
            elif self._outliers.failed(record, now, why):
                self._review()
        breaker = self.breaker
        if breaker is not None:
            probe, exchange.probes = exchange.probes is breaker, None
            if wrong and spec.breaker.server_errors:
                self._tell_breaker(breaker.failed(now, why, probe))
            else:
                self._tell_breaker(breaker.succeeded(now, probe))
        return status in self.retries.statuses

    def failed(self, exchange: "Exchange", why: str) -> None:
        """It has failed a request, or did not even take it, for the reason `why`: one sentence."""
        now, record, breaker = self._gateway.now(), exchange.endpoint.record, self.breaker
        if self._outliers is not None and record is not None and self._outliers.failed(record, now, why):
            self._review()
        if breaker is not None:
            probe, exchange.probes = exchange.probes is breaker, None
            self._tell_breaker(breaker.failed(now, why, probe))

    @property
    def is_open(self) -> bool:
        """The breaker lets nobody pass, so nothing is tried again either."""
        return self.breaker is not None and self.breaker.state is not BreakerState.CLOSED

    @property
    def refuses(self) -> bool:
        """The breaker would refuse a request that comes now. Not while one would be let through as a probe."""
        return self.breaker is not None and self.breaker.refuses(self._gateway.now())

    def grants(self) -> bool:
        """Whether the budget allows one more retry. If so, it counts."""
        return self.budget.spend(self._gateway.now(), self._upstream.accepted)

    def no_connection(self) -> Problem | None:
        """Why there may not be one more connection, if so. One that nobody uses makes room for it."""
        most = self._upstream.spec.breaker.max_connections
        if not most or self._upstream.connections <= most or any(state.spare() for state in self._upstream.routed):
            return None
        return problems.too_many_connections(self._upstream.spec.app, most)

    # -- what is known

    def breaker_view(self, now: float) -> BreakerSnapshot | None:
        """The breaker as people see it."""
        breaker = self.breaker
        if breaker is None:
            return None
        wait = breaker.wait(now) if breaker.state is BreakerState.OPEN else None
        return BreakerSnapshot(state=breaker.state, why=breaker.why, probe_in_s=wait, opened=breaker.opened)

    def expired(self) -> None:
        """An ejection ends, or success rates are to be compared."""
        if self._outliers is not None:
            self._outliers.look(self._gateway.now())
            self._review()

    # -- inside

    def _heard(self, state: "EndpointState", wrong: str) -> None:
        """An endpoint was asked by the proxy itself; `wrong` is empty for a right answer."""
        if state.health.heard(wrong, self._upstream.spec.health_check):
            self._review()

    def _apply_breaker(self, spec: UpstreamSpec, now: float) -> None:
        if not (spec.breaker.failures or spec.breaker.failure_rate):
            self.breaker = None
        elif self.breaker is None:
            self.breaker = Breaker(spec.breaker, now)
        else:
            self.breaker.apply(spec.breaker, now)

    def _apply_outliers(self, spec: UpstreamSpec, now: float) -> None:
        if not (spec.outliers.consecutive_errors or spec.outliers.success_rate_factor):
            self._outliers = None
            for state in self._upstream.routed:
                state.record = None
        elif self._outliers is None:
            self._outliers = Outliers(spec.outliers, now)
            for state in self._upstream.routed:
                state.record = self._outliers.add()
        else:
            self._outliers.apply(spec.outliers, now)

    def _review(self) -> None:
        """See who is well, and hold the others back unless too few would be left."""
        routed = self._upstream.routed
        ill = self._ill = sum(self._judge(state) is not _HEALTHY for state in routed)
        left = len(routed) - ill
        self._panic(bool(ill) and (not left or left * 100 < self._upstream.spec.panic_percent * len(routed)), left)
        for state in tuple(routed):
            self._upstream.hold_back(state, state.judged is not _HEALTHY and not self.panic)
        if self._outliers is not None:
            self._gateway.wheel.arm(self, self._outliers.due)
        else:
            self.deadline = NEVER

    def _judge(self, state: "EndpointState") -> EndpointHealth:
        """What is thought of an endpoint; when this has changed, an event tells it."""
        record = state.record
        ejected = record is not None and record.ejected
        judged = _EJECTED if ejected else _HEALTHY if state.health.healthy else _UNHEALTHY
        before, state.judged = state.judged, judged
        if judged is before:
            return judged
        if record is not None and ejected:
            seconds = record.until - self._gateway.now()
            text = f"is ejected for {seconds:.3g} s: it {record.why}"
        elif judged is _UNHEALTHY:
            text = f"is unhealthy to the proxy: it {state.health.why}"
        else:
            text = "is well again: " + ("its ejection is over" if before is _EJECTED else "it passes its health checks")
        worker = state.endpoint.worker
        self._events.emit(
            EventKind.ENDPOINT_HEALTH,
            f"{worker} {text}",
            app=worker.app,
            slot=worker.slot,
            generation=worker.generation,
            pid=state.endpoint.pid,
            data={"from": before, "to": judged},
        )
        return judged

    def _panic(self, panic: bool, left: int) -> None:
        if panic is self.panic:
            return
        self.panic = panic
        app, number = self._upstream.spec.app, len(self._upstream.routed)
        if panic:
            text = f"{app} panics: {left or 'none'} of {number} endpoints is well, so requests are sent to all of them"
        else:
            text = f"{app} panics no more: requests are sent to healthy endpoints only"
        self._events.emit(EventKind.PANIC, text, app=app, data={"on": panic})

    def _tell_breaker(self, transition: Transition | None) -> None:
        """Tell a change; when it opens, tell all who wait as well: they would wait for nothing."""
        breaker = self.breaker
        if transition is None or breaker is None:
            return
        app = self._upstream.spec.app
        names = {BreakerState.CLOSED: "closed", BreakerState.HALF_OPEN: "half open"}
        how = names.get(transition.after, f"open for {breaker.spec.open_for:g} s")
        data = {"from": transition.before, "to": transition.after}
        text = f"The circuit breaker of {app} is {how}: {transition.why[0].lower()}{transition.why[1:]}"
        self._events.emit(EventKind.BREAKER, text, app=app, data=data)
        if transition.after is BreakerState.OPEN:
            self._upstream.close(self._refusal(breaker, self._gateway.now()))

    def _refusal(self, breaker: Breaker, now: float) -> Problem:
        return problems.breaker_open(self._upstream.spec.app, math.ceil(breaker.wait(now)))
