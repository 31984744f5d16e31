"""FastCGI to a worker: the request as variables, the answer out of records. One request at a time on a connection."""

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from lab.core.printable import printable
from lab.proxy.backends.python_builtin.dialects import NO_REMARKS, meta_variables
from lab.proxy.backends.python_builtin.dialects.output import Output, ProgramDialect
from lab.wire import cgi, fastcgi
from lab.wire.bodies import Body
from lab.wire.fastcgi import Ending, Kind
from lab.wire.http1 import BadMessageError

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.exchange import Exchange

_HEADER_LIMIT: Final = 64 * 1024

_COMPLAINT: Final = 300
"""Bytes of a complaint that are told."""

_COMPLETE: Final = Ending.REQUEST_COMPLETE

_REFUSALS: Final = {
    Ending.CANT_MPX_CONN: (502, "It refused a second request on its connection (FCGI_CANT_MPX_CONN)."),
    Ending.OVERLOADED: (503, "It is overloaded (FCGI_OVERLOADED)."),
    Ending.UNKNOWN_ROLE: (502, "It answers no requests: it is no responder (FCGI_UNKNOWN_ROLE)."),
}


class FastCgiDialect(ProgramDialect):
    """A kept worker that speaks FastCGI. Its output is not limited: it may stream for as long as the client listens."""

    def __init__(self, keep: bool) -> None:
        """`keep`: the connection will be used again."""
        super().__init__()
        self._keep = keep
        self._reply = fastcgi.Reply()

    @property
    def begun(self) -> bool:
        return self._reply.begun

    @property
    def parting(self) -> bytes:
        return b"" if self._reply.done else fastcgi.ABORT

    @property
    def spent(self) -> bool:
        return self._reply.rest

    def request(self, exchange: "Exchange") -> bytes:
        pairs = fastcgi.pairs(meta_variables.of_request(exchange, authorized=True))
        pairs.append(_of_connection(*meta_variables.connection(exchange)))
        pairs.append(_constants(*meta_variables.server(exchange)))
        begin = fastcgi.request_head(pairs, self._keep)
        upload = exchange.upload
        if upload is not None and upload.held:
            begin += fastcgi.stream(Kind.STDIN, upload.held)
        self._reply = fastcgi.Reply()
        self.output = Output(exchange.request.method == b"HEAD", _HEADER_LIMIT, None)
        return begin if exchange.uploading else begin + fastcgi.STDIN_END

    def upload(self, payload: bytes, body: Body) -> bytes:
        return fastcgi.stream(Kind.STDIN, payload) + (fastcgi.STDIN_END if body.done else b"")

    def take(self, data: bytes) -> tuple[bytes, bool]:
        output = self._reply.feed(data)
        reply = self._reply
        if reply.ending is not _COMPLETE:
            raise BadMessageError(*_REFUSALS[reply.ending])
        return output, reply.done

    def remarks(self) -> tuple[str, ...]:
        reply, surplus = self._reply, self.output.surplus
        if not (reply.errors or reply.app_status or surplus):
            return NO_REMARKS
        found = []
        if complaint := reply.errors.strip():
            first, *others = complaint.splitlines()
            found.append(f"It complained: {printable(first, _COMPLAINT)}{' (and more)' if others else ''}")
        if reply.app_status:
            found.append(f"It ended a request with status {reply.app_status}.")
        if surplus:
            found.append(f"It wrote {surplus} bytes more than its Content-Length; they were cut off.")
        return tuple(found)


@lru_cache(maxsize=1024)
def _of_connection(host: bytes, client: tuple[str, int | None], modern: bool) -> bytes:
    return b"".join(fastcgi.pairs(cgi.of_connection(host, client, modern)))


@lru_cache(maxsize=64)
def _constants(port: int, root: bytes, secure: bool) -> bytes:
    return b"".join(fastcgi.pair(name, value) for name, value in cgi.constants(port, root, secure=secure))
