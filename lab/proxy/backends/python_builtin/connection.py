"""A connection to a worker: serves one exchange at a time, and waits in its endpoint's pool between two."""

import asyncio
from typing import TYPE_CHECKING, cast

from lab.proxy.backends.python_builtin.dialects import Dialect
from lab.proxy.timeouts import Timed

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.endpoint import EndpointState
    from lab.proxy.backends.python_builtin.exchange import Exchange


class WorkerConnection(asyncio.Protocol, Timed):
    """Its deadline is the end of an idle stay in the pool."""

    __slots__ = ("blocked", "dialect", "endpoint", "exchange", "pid", "reused", "transport")

    def __init__(self, endpoint: "EndpointState", dialect: Dialect) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.dialect = dialect
        self.pid = endpoint.endpoint.pid
        """Who is at the other end, as far as it is known."""
        self.exchange: Exchange | None = None
        self.reused = False
        """It has carried a response before, so the worker may have given it up meanwhile."""
        self.blocked = False
        """The worker does not take what is sent to it."""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is not None:
            exchange.received(data)
        else:
            self.discard()

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)

    def pause_writing(self) -> None:
        self.blocked = True
        if self.exchange is not None:
            self.exchange.worker_took(everything=False)

    def resume_writing(self) -> None:
        self.blocked = False
        if self.exchange is not None:
            self.exchange.worker_took(everything=True)

    def discard(self) -> None:
        """Hang up at once. Whoever uses it has let go of it."""
        self.exchange = None
        self.endpoint.forget(self)
        if (parting := self.dialect.parting) and not self.transport.is_closing():
            self.transport.write(parting)
        self.transport.abort()

    def expired(self) -> None:
        self.discard()

    def _ended(self, error: Exception | None) -> None:
        self.endpoint.forget(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.connection_ended(error)
