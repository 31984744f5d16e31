"""What the gateway itself answers: small JSON documents (RFC 9457) that say what happened and what to do about it."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from http import HTTPStatus

from lab.core.spelling import counted
from lab.proxy import explain
from lab.proxy.accounting import Outcome

_USUAL = {
    403: "http_request_denied",
    429: "http_request_denied",
    501: "http_request_error",
    502: "http_protocol_error",
    503: "destination_unavailable",
    504: "http_response_timeout",
    505: "http_request_error",
}
"""Status to error type of RFC 9209 2.3."""
_LIMIT = "connection_limit_reached"
_PHRASES = {413: "Content Too Large", 414: "URI Too Long"}
"""As RFC 9110 has them; `http` before Python 3.13 has the names of an older one."""


@dataclass(frozen=True)
class Problem:
    """An answer of the gateway's own making. `close` ends the connection after it."""

    status: int
    detail: str
    remedy: str = ""
    outcome: Outcome = Outcome.ANSWERED
    close: bool = False
    retry_after: int | None = None
    """Seconds."""
    allow: str = ""
    """With 405: the methods that would be answered (RFC 9110 15.5.6)."""
    error: str = ""
    """What Proxy-Status calls it (RFC 9209 2.3); empty for the usual name of its status."""
    cause: str = "other"
    """With the outcome SHED: under what it is counted."""

    def response(self, end: bytes, with_body: bool) -> bytes:
        """The whole response. `end` completes its head (see forwarding.py); `with_body` is false for HEAD."""
        return self._head + end + (self._body if with_body else b"")

    def proxy_status(self, next_hop: str) -> bytes:
        """The Proxy-Status field. `next_hop` is whom the gateway had asked, empty for nobody."""
        usual = "http_request_error" if self.status < 500 else "proxy_internal_error"
        return explain.failure(self.error or _USUAL.get(self.status, usual), self.detail, next_hop)

    @cached_property
    def _body(self) -> bytes:
        document = {"title": _phrase(self.status), "status": self.status, "detail": self.detail}
        return json.dumps(document | ({"remedy": self.remedy} if self.remedy else {})).encode() + b"\n"

    @cached_property
    def _head(self) -> bytes:
        fields = b"" if self.retry_after is None else b"Retry-After: %d\r\n" % self.retry_after
        fields += b"Allow: %b\r\n" % self.allow.encode() if self.allow else b""
        return head(self.status, "application/problem+json", len(self._body), fields)


def head(status: int, content_type: str, length: int, fields: bytes = b"") -> bytes:
    """Head of a response made here, without its empty line."""
    return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b" % (
        status,
        _phrase(status).encode(),
        content_type.encode(),
        length,
        fields,
    )


def _phrase(status: int) -> str:
    return _PHRASES.get(status) or HTTPStatus(status).phrase


OPTIONS = b"HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
"""Answer to `OPTIONS *`: what the gateway itself can do (RFC 9110 9.3.7)."""

PAGE_METHOD = Problem(405, "This page is only read.", "Use GET.", allow="GET, HEAD")
NO_PAGE = Problem(404, "The gateway has no such page.", "Pages are listed at /-/.")
PAGE_BROKEN = Problem(500, "The page could not be written.", "This is a defect of cgilab.", Outcome.FAILED)
LOOP = Problem(
    508,
    "This lab has passed this request on before: it goes round in a circle.",
    "Look for an app that sends requests back to this lab.",
    Outcome.FAILED,
    error="proxy_loop_detected",
)
FILE_METHOD = Problem(405, "This is a file, which is only read.", "Use GET.", allow="GET, HEAD")
PAGE_ELSEWHERE = Problem(
    403, "This page is shown to this machine only.", "Ask from 127.0.0.1, or name your network in observe_from."
)
HEAD_TOO_SLOW = Problem(408, "The request's head did not arrive in time.", "Send it at once.", close=True)


@lru_cache(maxsize=256)
def bad_message(status: int, detail: str) -> Problem:
    """A request that could be read in two ways, or in none."""
    return Problem(status, detail, outcome=Outcome.FAILED if status >= 500 else Outcome.ANSWERED, close=True)


@lru_cache(maxsize=64)
def body_too_slow(seconds: float, rate: int) -> Problem:
    least = f"{rate} bytes a second" if rate else "a byte"
    detail = f"In {seconds:g} s less than {least} of the request's body came."
    return Problem(408, detail, "Send it faster, or change timeouts.request_body and its rate.", close=True)


@lru_cache(maxsize=1)
def no_tls(authority: str) -> Problem:
    return Problem(400, "TLS is spoken here, and this was none.", f"Ask https://{authority} instead.", close=True)


@lru_cache(maxsize=64)
def body_too_large(limit: int) -> Problem:
    return Problem(413, f"The body is longer than {limit} bytes.", "Send less, or raise limits.body.", close=True)


@lru_cache(maxsize=64)
def length_required(limit: int) -> Problem:
    detail = f"A CGI or FastCGI program must be told the body's length first, and it came in chunks over {limit} bytes."
    return Problem(411, detail, "Send Content-Length, or raise limits.cgi_buffer.", close=True)


@lru_cache(maxsize=64)
def no_route(prefixes: tuple[str, ...], *, known: bool) -> Problem:
    """`known`: a route has this path, and asks for something besides."""
    error = "destination_not_found"
    if known:
        detail = "No route takes this request: those that have its path ask for another host, method or field."
        return Problem(404, detail, "Look at the conditions: cgilab status lists routes.", error=error)
    paths = ", ".join(prefixes) or "none: this lab has no app"
    return Problem(404, "No app has this path.", f"Paths of apps: {paths}.", error=error)


@lru_cache(maxsize=64)
def unavailable(app: str, reason: str) -> Problem:
    return Problem(503, f"{app} is unavailable: {reason}", outcome=Outcome.FAILED)


def _shed(cause: str, detail: str, remedy: str, seconds: int = 1, error: str = _LIMIT, status: int = 503) -> Problem:
    return Problem(status, detail, remedy, Outcome.SHED, retry_after=seconds, error=error, cause=cause)


@lru_cache(maxsize=64)
def queue_full(app: str, length: int) -> Problem:
    detail = f"Every worker of {app} is busy, no more than {counted(length, 'request')} may wait, and so many do."
    return _shed("queue full", detail, "Try again, or give it more workers.")


@lru_cache(maxsize=64)
def queue_timeout(app: str, seconds: float, workers: int) -> Problem:
    why = f"none of the {workers} workers of {app} was free" if workers else f"{app} had no worker that is ready"
    error = _LIMIT if workers else "destination_unavailable"
    remedy = "Try again, or give it more workers; timeouts.queue sets the wait."
    return _shed("queue timeout", f"For {seconds:g} s {why}.", remedy, error=error)


@lru_cache(maxsize=64)
def overloaded(app: str, seconds: float) -> Problem:
    detail = f"{app} is overloaded, so a request waits {seconds:g} s for a place and no longer."
    return _shed("queue delay", detail, "Try again later, or change shedding.target and its interval.")


@lru_cache(maxsize=64)
def breaker_open(app: str, seconds: int) -> Problem:
    """`seconds` until one request passes as a probe; 0 while one is under way."""
    detail = f"{app} has failed too often, so it is left alone for a while (its circuit breaker is open)."
    wait = max(1, seconds)
    return _shed("breaker open", detail, f"Try again in {wait} s.", wait, error="")


@lru_cache(maxsize=64)
def too_many_requests(app: str, limit: int) -> Problem:
    detail = f"Workers of {app} may have no more than {counted(limit, 'request')} at once, and so many they have."
    return _shed("breaker requests", detail, "Try again, or raise breaker.max_requests.")


@lru_cache(maxsize=64)
def too_many_connections(app: str, limit: int) -> Problem:
    detail = f"There may be no more than {counted(limit, 'connection')} to workers of {app}, and so many are in use."
    return _shed("breaker connections", detail, "Try again, or raise breaker.max_connections.")


def too_often(app: str, rate: float, seconds: float) -> Problem:
    """`seconds` until the next request would be let through."""
    return _too_often("app rate", f"{app} takes {_rate(rate)}", "rate_limit.rate", math.ceil(seconds))


def client_too_often(app: str, rate: float, seconds: float) -> Problem:
    """As `too_often`, for one client."""
    detail = f"{app} takes {_rate(rate)} from one client"
    return _too_often("client rate", detail, "rate_limit.per_client_rate", math.ceil(seconds))


def _rate(rate: float) -> str:
    return "1 request a second" if rate == 1 else f"{rate:g} requests a second"


@lru_cache(maxsize=64)
def _too_often(cause: str, limit: str, setting: str, seconds: int) -> Problem:
    remedy = f"Try again in {seconds} s; {setting} sets how often."
    return _shed(cause, f"{limit}, and this was one too many.", remedy, seconds, error="", status=429)


@lru_cache(maxsize=64)
def proxy_busy(limit: int) -> Problem:
    detail = f"No more than {counted(limit, 'request')} may be in flight, and so many are."
    return _shed("requests", detail, "Try again, or raise proxy.limits.requests.")


@lru_cache(maxsize=64)
def too_many_wait(limit: int) -> Problem:
    detail = f"No more than {counted(limit, 'request')} may wait, and so many do."
    return _shed("pending", detail, "Try again, or raise proxy.limits.pending.")


@lru_cache(maxsize=64)
def too_crowded(limit: int) -> Problem:
    detail = f"No more than {counted(limit, 'client')} may be connected, and so many are, all of them busy."
    return _shed("connections", detail, "Try again, or raise proxy.limits.connections.")


def _gateway(status: int, detail: str, remedy: str = "", error: str = "") -> Problem:
    return Problem(status, detail, remedy, Outcome.FAILED, error=error)


def connect_failed(endpoint: str, why: str) -> Problem:
    return _gateway(
        502,
        f"No connection to {endpoint}: {why}.",
        "Look whether the worker lives and listens there.",
        "connection_refused",
    )


def connect_timeout(endpoint: str, seconds: float) -> Problem:
    remedy = "Its backlog is full, or it is frozen."
    return _gateway(504, f"{endpoint} did not accept a connection within {seconds:g} s.", remedy, "connection_timeout")


def out_of_time(total: float, passed: Iterable[tuple[float, str]]) -> Problem:
    """`passed`: how many seconds went where."""
    spent = ", ".join(f"{seconds:.2f} s {where}" for seconds, where in passed if seconds >= 0.005)
    remedy = "timeouts.total sets how long a request may take in all."
    return _gateway(504, f"The time of this request, {total:g} s, is over: {spent or 'it was none'}.", remedy)


@lru_cache(maxsize=64)
def closing(seconds: float) -> Problem:
    detail = f"The lab closes, and this request was not done {seconds:g} s later."
    return Problem(503, detail, "proxy.timeouts.drain sets how long it waits.", Outcome.FAILED, close=True)


def died_before_answer(endpoint: str, received: bool) -> Problem:
    when = "in the middle of its response's head" if received else "before it answered"
    error = "http_response_incomplete" if received else "connection_terminated"
    remedy = "Look at the worker's last output: it may have died."
    return _gateway(502, f"{endpoint} closed the connection {when}.", remedy, error)


def bad_answer(endpoint: str, status: int, detail: str) -> Problem:
    return _gateway(status, f"{endpoint} gave an answer that cannot be passed on. {detail}", "Mend the program.")


def start_failed(app: str, why: str) -> Problem:
    return _gateway(502, f"The CGI program of {app} was not started: {why}", error="destination_unavailable")


def cgi_overdue(app: str, seconds: float) -> Problem:
    detail = f"The CGI program of {app} was not done after {seconds:g} s, so it was killed."
    return _gateway(504, detail, "It is slow, or it hangs; cgi.time sets how long it may take.")


def redirects_too_often(app: str, limit: int) -> Problem:
    detail = f"Programs redirected this request inside the lab more than {limit} times, the last was {app}'s."
    remedy = "Look for two that redirect to each other with Location: /path."
    return _gateway(502, detail, remedy, "proxy_loop_detected")


def redirected_early(app: str) -> Problem:
    detail = f"{app} redirected inside the lab before the whole request had come."
    return _gateway(502, detail, "Have the program read its input first.")


def answer_timeout(endpoint: str, seconds: float) -> Problem:
    return _gateway(504, f"{endpoint} did not answer within {seconds:g} s.", "It is slow, or it hangs.")
