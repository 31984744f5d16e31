"""What becomes of a request that an endpoint has failed: what was tried, and whether it is tried once more.

What was not sent may go to anybody else. What was sent, somebody may have acted on: it goes out again only if that
changes nothing (RFC 9110 9.2.2), if all of it is still here, and if its app wants that. A budget bounds both, for many
failures at once are a sign of too much to do, and retries would add to it (retries.py). Most requests never have one
of these.
"""

from typing import TYPE_CHECKING, Final

from lab.proxy.backends.python_builtin.phase import ACCEPTED
from lab.proxy.problems import Problem
from lab.proxy.retries import Attempt
from lab.wire.http1 import IDEMPOTENT

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.endpoint import EndpointState
    from lab.proxy.backends.python_builtin.exchange import Exchange

_STALE_WITHIN: Final = 0.01
"""Seconds. A reused connection that ends this soon was ending already; later, the worker died with the request."""


class Retrial:
    """One request's failed attempts."""

    __slots__ = ("_exchange", "attempts", "refused", "tried")

    def __init__(self, exchange: "Exchange") -> None:
        self.attempts: tuple[Attempt, ...] = ()
        """What was tried, and failed."""
        self.tried: tuple[EndpointState, ...] = ()
        """Endpoints that are not to have it, because they have failed it."""
        self.refused: Problem | None = None
        """What was wrong with the last of them, while nobody else can be tried."""
        self._exchange = exchange

    def begin_anew(self) -> None:
        """Another path is to answer it: what failed stays known, but whoever failed it may be asked for that."""
        self.tried, self.refused = (), None

    def note(self, why: str, seconds: float, *, sent: bool) -> None:
        """An attempt has failed after `seconds`; `sent`: the worker may have seen the request."""
        exchange = self._exchange
        exchange.noted = True
        self.attempts += (Attempt(exchange.endpoint.endpoint, why, seconds, sent),)

    def elsewhere(self, problem: Problem, seconds: float, *, refused: bool) -> None:
        """There was no connection to its endpoint within `seconds`, for `problem`: try another one, if there is one.

        Who refuses a connection has just died, more often than not: then the successor is waited for, for as long as a
        connection may take.
        """
        exchange = self._exchange
        upstream, guard = exchange.upstream, exchange.upstream.guard
        self.tried += (exchange.endpoint,)
        self.note(problem.detail, seconds, sent=False)
        elsewhere = upstream.untried(exchange)
        if guard.is_open or not guard.retries.connect or not (elsewhere or refused):
            exchange.fail(problem)
        elif not elsewhere:
            self.refused = problem
            upstream.wait(exchange)
        elif guard.grants():
            exchange.counters.retries += 1
            upstream.admit(exchange)
        else:
            exchange.fail(problem)

    def grants(self) -> bool:
        """Whether what was sent may be sent once more. It counts as a retry if so."""
        exchange, guard = self._exchange, self._exchange.upstream.guard
        sent = 1 + sum(attempt.sent for attempt in self.attempts)
        if not _is_here(exchange) or exchange.request.method not in IDEMPOTENT or sent >= guard.retries.attempts:
            return False
        if guard.is_open or not guard.grants():
            return False
        exchange.counters.retries += 1
        return True

    def again(self, why: str, now: float) -> None:
        """Send it once more, to somebody else if there is anybody: `grants` said that it may be."""
        exchange = self._exchange
        endpoint, upstream = exchange.endpoint, exchange.upstream
        self.note(why, now - exchange.asked, sent=True)
        self.tried = upstream.elsewhere(exchange)
        exchange.phase, exchange.asked = ACCEPTED, 0.0
        exchange.connection.discard()
        endpoint.ended(exchange, now)
        upstream.admit(exchange)
        endpoint.release()


def was_stale(exchange: "Exchange", now: float) -> bool:
    """Whether the worker had given its idle connection up just before it was used (RFC 9112 9.3.1). Then the request is
    sent on a fresh one, if the worker has not begun with it, or may begin with it twice."""
    connection = exchange.connection
    if not connection.reused or not _is_here(exchange) or connection.dialect.begun:
        return False
    if exchange.request.method in IDEMPOTENT:
        return now - exchange.endpoint.open[exchange] < _STALE_WITHIN
    return connection.transport in exchange.gateway.outbox.waiting


def _is_here(exchange: "Exchange") -> bool:
    """All that was sent of it can be sent once more."""
    return exchange.upload is None or exchange.upload.repeatable
