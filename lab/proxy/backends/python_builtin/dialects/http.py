"""HTTP/1.1 to a worker: heads pass with few changes, bodies as they are."""

from typing import TYPE_CHECKING, Final

from lab.proxy.backends.python_builtin import tunnel
from lab.proxy.backends.python_builtin.dialects import NO_REMARKS, Answer
from lab.proxy.routes import replaced
from lab.proxy.timeouts import NEVER
from lab.wire.bodies import LAST_CHUNK, Body, chunk, incoming
from lab.wire.http1 import CHUNKED, parse_response, with_target

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.exchange import Exchange


class HttpDialect:
    """Requests as they came, with the fields that a gateway adds."""

    __slots__ = ("_chunked", "_held", "_to_head")

    continues: Final = True
    redirect: Final = None
    parting: Final = b""

    def __init__(self) -> None:
        self._held = b""
        self._to_head = self._chunked = False

    @property
    def begun(self) -> bool:
        return bool(self._held)

    def request(self, exchange: "Exchange") -> bytes:
        request = exchange.request
        self._held = b""
        self._to_head = request.method == b"HEAD"
        self._chunked = request.fields.length == CHUNKED
        upload = exchange.upload
        body = b"" if upload is None else upload.held
        if self._chunked and upload is not None:
            body = chunk(body) + (LAST_CHUNK + upload.trailers + b"\r\n" if upload.done else b"")
        lines, strip = request.lines, exchange.route.strip
        if strip:
            lines = with_target(request, replaced(request.target, strip, b""))
        if request.fields.upgrade:
            lines += tunnel.switch(tunnel.offered(request, exchange.upstream.spec.upgrades))
        if exchange.until < NEVER:
            lines += exchange.time_left()
        return lines + exchange.name + exchange.downstream.end_of(request) + body

    def upload(self, payload: bytes, body: Body) -> bytes:
        if not self._chunked:
            return payload
        return chunk(payload) + (LAST_CHUNK + body.trailers + b"\r\n" if body.done else b"")

    def answer(self, data: bytes) -> Answer | None:
        data = self._held + data if self._held else data
        head = parse_response(data, self._to_head)
        if head is None:
            self._held = data
            return None
        self._held = b""
        rest = data[head.end :]
        if len(rest) == head.length or head.status < 200:
            return head, rest, None
        download = incoming(head.length, 502, head.dropped)
        return head, download.feed(rest), download

    def remarks(self) -> tuple[str, ...]:
        return NO_REMARKS
