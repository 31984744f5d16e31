"""What is left of HTTP when both sides switch to another protocol (RFC 9110 7.8): two connections, joined end to end.

Bytes pass as they come, and none is looked at. Each side hears what the other does: that it is slow (reading pauses),
that it has said everything (an end of its own, while answers still come), that it broke (a reset). A tunnel ends when
both have said everything, when nothing moves for `timeouts.tunnel_idle` (`timeouts.drain` once one of them has said
everything: it may be gone for good), or `timeouts.drain` after its worker or the lab was told to end. Its worker's
place is taken until then, and given back exactly once. When it is over, its trace and an event tell how long it was
open, what it carried each way, and who hung up first.
"""

import asyncio
from collections.abc import Iterable
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING, cast

from lab.core.model import Timeouts
from lab.core.trace import Trace, Tunnelled
from lab.proxy.backends.python_builtin.connection import WorkerConnection
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.backends.python_builtin.outbox import reset
from lab.proxy.timeouts import Timed
from lab.wire.headers import listed
from lab.wire.http1 import RequestHead, ResponseHead

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.downstream import Downstream


def offered(request: RequestHead, allowed: Iterable[str]) -> tuple[bytes, ...]:
    """The protocols that the client asks for and its app may switch to; the worker is asked for no others."""
    known = {name.encode() for name in allowed}
    return tuple(name for name in listed(request.fields.upgrade) if name in known)


def agreed(head: ResponseHead, offered: tuple[bytes, ...]) -> bool:
    """Whether a 101 switches to what was offered, and to nothing else."""
    chosen = listed(head.upgrade)
    return bool(chosen) and all(name in offered for name in chosen)


def switch(protocols: tuple[bytes, ...]) -> bytes:
    """The fields that ask for a switch, or confirm it; empty for none."""
    return b"Connection: upgrade\r\nUpgrade: %b\r\n" % b", ".join(protocols) if protocols else b""


class TunnelEnd(StrEnum):
    """Why a tunnel ended, as figures name it."""

    CLIENT_CLOSED = "client_closed"
    CLIENT_RESET = "client_reset"
    WORKER_CLOSED = "worker_closed"
    WORKER_RESET = "worker_reset"
    IDLE = "idle"
    """Nothing moved for `timeouts.tunnel_idle`."""
    HALF_CLOSED = "half_closed"
    """One of the two had said everything, and the other one said nothing for `timeouts.drain`."""
    WORKER_ENDED = "worker_ended"
    """Its worker had to end, and `timeouts.drain` was over."""
    LAB_ENDED = "lab_ended"


_CLOSED = {"client": TunnelEnd.CLIENT_CLOSED, "worker": TunnelEnd.WORKER_CLOSED}
_RESET = {"client": TunnelEnd.CLIENT_RESET, "worker": TunnelEnd.WORKER_RESET}


class _State(Enum):
    OPEN = auto()
    DRAINING = auto()
    """It goes on, but not for long."""
    CLOSING = auto()
    """What was said is still delivered; nothing more is heard."""


class Tunnel(Timed):
    """Two connections as one. Its deadline is that of its state."""

    def __init__(self, downstream: "Downstream", connection: WorkerConnection, gateway: Gateway) -> None:
        super().__init__()
        self._gateway = gateway
        self._counters = gateway.counters[downstream.own]
        self._endpoint = connection.endpoint
        self._state = _State.OPEN
        self._client = _End("client", self, downstream.transport, downstream)
        self._worker = _End("worker", self, connection.transport, connection)
        self._client.other, self._worker.other = self._worker, self._client
        self._left = 2
        self._request = downstream.exchange
        """Nothing more is asked on this connection, so it stays what it was."""
        self._trace: Trace | None = None
        self._opened = gateway.now()
        self._cause = TunnelEnd.IDLE
        self._ended_by = self._why = ""

    def open(self, said: bytes) -> None:
        """Take both connections over. `said`: what the worker sent behind its 101."""
        self._gateway.outbox.flush()
        downstream, connection = cast("Downstream", self._client.before), cast("WorkerConnection", self._worker.before)
        early = downstream.hand_over(self)
        self._counters.tunnels += 1
        self._endpoint.tunnels.add(self)
        self._trace = self._gateway.logbook.opened(self._request)
        self._worker.listen(not downstream.blocked)
        self._client.listen(not connection.blocked)
        for end in (self._client, self._worker):
            end.transport.set_protocol(end)
        self._arm(self._timeouts.tunnel_idle)
        if said:
            self._worker.data_received(said)
        if early:
            self._client.data_received(early)
        if self._gateway.draining or not self._endpoint.routed:
            self.drain()

    def drain(self) -> None:
        """It has `timeouts.drain` to come to an end by itself."""
        if self._state is _State.OPEN:
            self._state = _State.DRAINING
            self._arm(self._timeouts.drain)

    def close(self, cause: TunnelEnd, who: str, why: str) -> None:
        """Deliver what has been said, and hang up on both. Whoever comes first is told to have ended it."""
        if self._state is not _State.CLOSING:
            self._state = _State.CLOSING
            self._cause, self._ended_by, self._why = cause, who, why
            self._arm(self._timeouts.drain)
        self._client.transport.close()
        self._worker.transport.close()

    def expired(self) -> None:
        if self._state is _State.CLOSING:
            self._client.transport.abort()
            self._worker.transport.abort()
        else:
            self._give_up()

    def carried(self, size: int) -> None:
        """So many bytes went through."""
        self._counters.tunnel_bytes += size
        if self._state is _State.OPEN:
            self.deadline = self._gateway.now() + self._patience()

    def half_closed(self) -> None:
        """One side has said everything."""
        if self._state is _State.OPEN:
            self._arm(self._patience())

    def lost(self, end: "_End", error: Exception | None) -> None:
        """One of the two connections is gone, by a reset if there is an `error`: the other goes the same way."""
        self._left -= 1
        if self._left:
            if error is not None:
                reset(end.other.transport)
                self.close(_RESET[end.name], end.name, f"the {end.name} broke it off")
            else:
                self._give_up()
            return
        self._gateway.wheel.forget(self)
        self._counters.tunnels -= 1
        self._endpoint.tunnels.discard(self)
        self._endpoint.release()
        self._request.route.tunnels_ended[self._cause] += 1
        tunnelled = Tunnelled(
            seconds=self._gateway.now() - self._opened,
            from_client=self._client.said,
            from_worker=self._worker.said,
            ended_by=self._ended_by,
            why=self._why,
        )
        self._gateway.logbook.ended(self._request, self._trace, tunnelled)

    def _give_up(self) -> None:
        """End it, because neither of the two did."""
        quiet = next((end for end in (self._client, self._worker) if end.silent), None)
        if self._gateway.draining:
            cause, why = TunnelEnd.LAB_ENDED, "the lab ended"
        elif self._state is _State.DRAINING:
            cause, why = TunnelEnd.WORKER_ENDED, "its worker had to end"
        elif quiet is not None:
            cause, seconds = TunnelEnd.HALF_CLOSED, f"{self._patience():g} s"
            why = f"the {quiet.name} had said everything, and for {seconds} the {quiet.other.name} said nothing"
        else:
            cause, why = TunnelEnd.IDLE, f"nothing moved for {self._patience():g} s"
        self.close(cause, "gateway", why)

    def _patience(self) -> float:
        timeouts = self._timeouts
        halved = self._client.silent or self._worker.silent
        return min(timeouts.drain, timeouts.tunnel_idle) if halved else timeouts.tunnel_idle

    @property
    def _timeouts(self) -> Timeouts:
        return self._endpoint.upstream.spec.timeouts

    def _arm(self, seconds: float) -> None:
        self._gateway.wheel.arm(self, self._gateway.now() + seconds)


class _End(asyncio.Protocol):
    """One of the two connections: what it says goes to the other."""

    other: "_End"

    def __init__(self, name: str, tunnel: Tunnel, transport: asyncio.Transport, before: asyncio.Protocol) -> None:
        self.name = name
        """As people call it."""
        self.said = 0
        """Bytes that came from it."""
        self.transport = transport
        self.before = before
        """Who had the connection. It hears of its end, to settle what it keeps about it."""
        self._tunnel = tunnel
        self.silent = False
        """It has said everything."""

    def data_received(self, data: bytes) -> None:
        size = len(data)
        self.said += size
        self._tunnel.carried(size)
        if not self.other.transport.is_closing():
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Say so to the other side; when both have said everything, it is over."""
        self.silent = True
        if self.other.silent:
            self._tunnel.close(_CLOSED[self.other.name], self.other.name, f"the {self.other.name} closed it")
            return False
        if not self.other.transport.is_closing():
            self.other.transport.write_eof()
        self._tunnel.half_closed()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.before.connection_lost(exc)
        self._tunnel.lost(self, exc)

    def pause_writing(self) -> None:
        self.other.listen(False)

    def resume_writing(self) -> None:
        self.other.listen(True)

    def listen(self, wanted: bool) -> None:
        """Take more from it, or nothing for now. There is nothing to take once it has said everything."""
        if self.silent or self.transport.is_closing() or self.transport.is_reading() is wanted:
            return
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()
