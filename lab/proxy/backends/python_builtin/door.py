"""Whether a request may come in at all: the rate limits of its app, and how many the whole proxy may have at a time.

An app has a door only while one of these is set, so that the others' requests pass nothing. The lab's own requests and
its answers under `/-/` and at `/pool-status` come by no door: an overload must not hide what it does.
"""

from typing import TYPE_CHECKING

from lab.core.model import RateLimit
from lab.proxy import problems
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.limits import RateLimiter

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.exchange import Exchange
    from lab.proxy.backends.python_builtin.upstream import Upstream


class Door:
    """One app's."""

    def __init__(self, upstream: "Upstream", gateway: Gateway) -> None:
        self._upstream = upstream
        self._gateway = gateway
        self._limiter = RateLimiter(upstream.spec.rate_limit)

    @property
    def watched(self) -> bool:
        """Whether anything is to be looked at."""
        limit = self._upstream.spec.rate_limit
        return bool(limit.rate or limit.per_client_rate or self._gateway.limits.requests)

    def apply(self, spec: RateLimit) -> None:
        """Follow the app's settings."""
        self._limiter.spec = spec

    def admit(self, exchange: "Exchange") -> bool:
        """Whether a request may pass; else it has been answered."""
        if exchange.downstream.own:
            return True
        most = self._gateway.limits.requests
        if most and sum(counters.in_flight for counters in self._gateway.counters) > most:
            self._refuse(exchange, problems.proxy_busy(most))
            return False
        seconds, his = self._limiter.take(exchange.downstream.client, self._gateway.now())
        if seconds:
            limit, app = self._limiter.spec, self._upstream.spec.app
            if his:
                self._refuse(exchange, problems.client_too_often(app, limit.per_client_rate, seconds))
            else:
                self._refuse(exchange, problems.too_often(app, limit.rate, seconds))
        return not seconds

    def _refuse(self, exchange: "Exchange", problem: problems.Problem) -> None:
        if exchange.latency is None:
            self._upstream.claim(exchange)
        exchange.fail(problem)
