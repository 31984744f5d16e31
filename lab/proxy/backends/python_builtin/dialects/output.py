"""What a program writes in answer to a request, whichever way it gets here: RFC 3875's header, then a body.

Its end is known apart from it (FCGI_END_REQUEST, or the end of a process), so a Content-Length that the program states
is a promise that can be held against it: too little breaks the response off, too much is cut and told.
"""

from abc import ABC, abstractmethod

import msgspec

from lab.proxy.backends.python_builtin.dialects import Answer
from lab.wire.cgi import LocalRedirect, parse_answer
from lab.wire.http1 import CHUNKED, BadMessageError, ResponseHead


class Output:
    """One program's output for one request."""

    __slots__ = ("_held", "_largest", "_limit", "_promised", "_silent", "_to_head", "_written", "redirect")

    def __init__(self, to_head: bool, header: int, largest: int | None) -> None:
        """`to_head`: it answers HEAD. `header` and `largest` are the most bytes of header and body."""
        self._to_head = to_head
        self._limit = header
        self._largest = largest
        self._held = b""
        self._promised = CHUNKED
        self._written = 0
        self._silent = False
        self.redirect: LocalRedirect | None = None
        """It has another path answer; what it writes besides is thrown away."""

    @property
    def surplus(self) -> int:
        """Bytes that it wrote beyond its Content-Length."""
        return 0 if self._silent or self._promised == CHUNKED else max(0, self._written - self._promised)

    @property
    def endless(self) -> bool:
        """Nothing but its end says that it is complete."""
        return self._promised == CHUNKED and not self._silent

    @property
    def whole(self) -> bool:
        """The client has all that it was promised; it is only the program that has not ended."""
        return self._silent or 0 <= self._promised <= self._written

    def head(self, data: bytes, ended: bool) -> tuple[ResponseHead, bytes] | None:
        """The head with what there is of the body; None while it is incomplete, or when it is a redirect.

        Raises `BadMessageError` with 502 for a wrong header, and for none when the output has `ended`.
        """
        if self.redirect is not None:
            return None
        self._held = data = self._held + data if self._held else data
        answer = parse_answer(data, self._limit)
        if answer is None:
            if ended:
                where = (
                    f"in the middle of its header, after {len(self._held)} bytes" if self._held else "without output"
                )
                raise BadMessageError(502, f"It ended {where}; expected a header, an empty line and a body.")
            return None
        self._held = b""
        if isinstance(answer.head, LocalRedirect):
            self.redirect = answer.head
            return None
        return self._begin(answer.head, answer.rest, ended)

    def body(self, data: bytes, ended: bool) -> bytes:
        """What of `data` goes to the client. Raises `BadMessageError` when a promise or a limit is broken."""
        before, self._written = self._written, self._written + len(data)
        if self._largest is not None and self._written > self._largest:
            raise BadMessageError(502, f"It wrote more than {self._largest} bytes.")
        if self._silent:
            return b""
        if self._promised == CHUNKED:
            return data
        if ended and self._written < self._promised:
            raise BadMessageError(502, f"It promised {self._promised} bytes and ended after {self._written}.")
        return data if self._written <= self._promised else data[: max(0, self._promised - before)]

    def _begin(self, head: ResponseHead, rest: bytes, ended: bool) -> tuple[ResponseHead, bytes]:
        self._silent = self._to_head or head.status in (204, 304)
        self._promised = head.length
        payload = self.body(rest, ended)
        if self._silent:
            head = ResponseHead(head.status, 0, head.keep_alive, head.lines, 0, b"", head.dated, head.named)
        elif ended and head.length == CHUNKED:
            lines = head.lines + b"Content-Length: %d\r\n" % len(payload)
            head = ResponseHead(head.status, len(payload), head.keep_alive, lines, 0, b"", head.dated, head.named)
        return head, payload


class ProgramDialect(ABC):
    """What FastCGI and CGI have in common: how an answer is read."""

    continues = False
    """RFC 3875 has no interim responses: the gateway answers `Expect: 100-continue`."""

    def __init__(self) -> None:
        self.output = Output(False, 0, 0)
        """Of the request that is asked now."""
        self.redirect: LocalRedirect | None = None
        """It has ended, and has another path answer."""

    @abstractmethod
    def take(self, data: bytes) -> tuple[bytes, bool]:
        """What of `data` the program wrote, and whether it has ended. Raises `BadMessageError`."""

    @property
    @abstractmethod
    def spent(self) -> bool:
        """The connection cannot be used again."""

    def answer(self, data: bytes) -> Answer | None:
        """See `Dialect.answer`."""
        output, ended = self.take(data)
        begun = self.output.head(output, ended)
        if begun is None:
            self.redirect = self.output.redirect if ended else None
            return None
        head, payload = begun
        if self.spent:
            head = msgspec.structs.replace(head, keep_alive=False)
        return head, payload, None if ended else ProgramBody(self)


class ProgramBody:
    """The rest of a program's output, as a body."""

    __slots__ = ("_dialect", "done", "rest", "trailers")

    def __init__(self, dialect: ProgramDialect) -> None:
        self._dialect = dialect
        self.done = False
        self.rest = self.trailers = b""

    @property
    def whole(self) -> bool:
        return self._dialect.output.whole

    def feed(self, data: bytes) -> bytes:
        output, self.done = self._dialect.take(data)
        if self._dialect.spent:
            self.rest = data
        return self._dialect.output.body(output, self.done)
