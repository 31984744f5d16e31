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
        request, upload, downstream = exchange.request, exchange.upload, exchange.downstream
        fields, lines, strip = request.fields, request.lines, exchange.route.strip
        self._to_head = request.method == b"HEAD"
        if strip:
            lines = with_target(request, replaced(request.target, strip, b""))
        if fields.upgrade:
            lines += tunnel.switch(tunnel.offered(request, exchange.upstream.spec.upgrades))
        if exchange.until < NEVER:
            lines += exchange.time_left()
        head = lines + exchange.name + (downstream.end if downstream.end_for is fields else downstream.end_of(fields))
        self._chunked = upload is not None and fields.length == CHUNKED
        if upload is None:
            return head
        if not self._chunked:
            return head + upload.held
        return head + chunk(upload.held) + (LAST_CHUNK + upload.trailers + b"\r\n" if upload.done else b"")

    def upload(self, payload: bytes, body: Body) -> bytes:
        if not self._chunked:
            return payload
        return chunk(payload) + (LAST_CHUNK + body.trailers + b"\r\n" if body.done else b"")

    def answer(self, data: bytes) -> Answer | None:
        if self._held:
            data, self._held = self._held + data, b""
        head = parse_response(data, self._to_head)
        if head is None:
            self._held = data
            return None
        rest = data[head.end :]
        if len(rest) == head.length or head.status < 200:
            return head, rest, None
        download = incoming(head.length, 502, head.dropped)
        return head, download.feed(rest), download

    def remarks(self) -> tuple[str, ...]:
        return NO_REMARKS
