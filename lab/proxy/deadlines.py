"""How long a whole request may take, and how workers are told what is left of it.

Timeouts of single steps add up: a request can wait for a place, for a connection and for a worker, each within its
bound, and come much later than anybody still wants it. A deadline bounds the sum, and a worker that knows it can stop
working for nobody (Google's *Site Reliability Engineering*, ch. 22, "Deadline propagation"; gRPC sends `grpc-timeout`,
Envoy `x-envoy-expected-rq-timeout-ms`). Ours is a duration, as theirs are: clocks of two machines need not agree.
"""

import re
from typing import Final

import msgspec

from lab.wire.headers import without
from lab.wire.http1 import RequestHead

FIELD: Final = b"X-Request-Timeout-Ms"
VARIABLE: Final = b"HTTP_X_REQUEST_TIMEOUT_MS"
"""What CGI and FastCGI call it (RFC 3875 4.1.18)."""

_NAME: Final = FIELD.lower()
_SENT: Final = re.compile(rb"(?i)\n" + FIELD + rb":[ \t]*+([0-9]{1,9})[ \t]*+\r")


def asked_for(request: RequestHead) -> float | None:
    """Seconds that the client gives the request; None when it says nothing, or nothing that is a number."""
    sent = _SENT.search(request.lines)
    return None if sent is None else int(sent[1]) / 1000


def unasked(request: RequestHead) -> RequestHead:
    """The request without the client's own word: the worker is told by us alone."""
    if _NAME not in request.lines.lower():
        return request
    return msgspec.structs.replace(request, lines=without(request.lines, (_NAME,)))


def left_ms(until: float, now: float) -> bytes:
    """What is left until then, in whole milliseconds, never less than 0. Both are monotonic seconds."""
    return b"%d" % max(0, (until - now) * 1000)


def field(until: float, now: float) -> bytes:
    """The field line that tells a worker."""
    return b"%b: %b\r\n" % (FIELD, left_ms(until, now))
