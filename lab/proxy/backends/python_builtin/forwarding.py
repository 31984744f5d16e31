"""What a head gains on its way through the gateway (RFC 9110 7.6). What it loses, the parser has cut out already.

The client's own X-Forwarded-* and Forwarded were dropped: anybody can write them, so only the gateway's word counts.
"""

import math
from email.utils import formatdate

from lab.core.clock import Clock
from lab.proxy import problems
from lab.wire.headers import without
from lab.wire.http1 import RequestHead

VIA = b"Via: 1.1 cgilab\r\n"
_SECRET = (b"authorization", b"cookie", b"proxy-authorization")


class DateField:
    """When an answer came, for those that do not say it themselves (RFC 9110 6.6.1). Written once a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._now = clock.monotonic
        self._line = b""
        self._until = -math.inf

    def __call__(self) -> bytes:
        """The field line of this second."""
        now = self._now()
        if now >= self._until:
            wall = self._clock.wall()
            self._line = b"Date: %b\r\n" % formatdate(wall, usegmt=True).encode()
            self._until = now + 1 - wall % 1
        return self._line


def is_dated(lines: bytes) -> bool:
    """Whether a head's lines say when the answer was made. Nearly all that do spell it so."""
    return b"\nDate:" in lines or b"\ndate:" in lines.lower()


def request_end(peer: str, host: bytes | None, authority: bytes, modern: bool, chunked: bool) -> bytes:
    """The fields that end a request's head, and its empty line. A client that named no host is given `authority`."""
    lines = b"" if host else b"Host: %b\r\n" % authority
    lines += VIA if modern else VIA.replace(b"1.1", b"1.0", 1)
    lines += b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: http\r\n" % peer.encode()
    lines += b"X-Forwarded-Host: %b\r\n" % (host or authority)
    return lines + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")


def last_hop(request: RequestHead) -> tuple[bytes, bytes]:
    """Head, without its empty line, and body of the answer to TRACE or OPTIONS that may go no further.

    TRACE shows what got here, but for what says who the client is (RFC 9110 9.3.8).
    """
    if request.method != b"TRACE":
        return problems.OPTIONS, b""
    body = without(request.lines, _SECRET) + b"\r\n"
    return problems.head(200, "message/http", len(body)), body


def _response_end(keep: bool, modern: bool, chunked: bool) -> bytes:
    """HTTP/1.1 stays open unless told to close; HTTP/1.0 closes unless told to stay."""
    connection = (b"" if modern else b"Connection: keep-alive\r\n") if keep else b"Connection: close\r\n"
    return VIA + connection + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")


_BOTH = (False, True)
RESPONSE_END = {
    (keep, modern, chunked): _response_end(keep, modern, chunked)
    for keep in _BOTH
    for modern in _BOTH
    for chunked in _BOTH
}
"""The fields that end a response's head, and its empty line: by keep-alive, HTTP/1.1 and chunked."""
