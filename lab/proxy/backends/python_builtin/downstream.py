"""A client's connection: finds requests in what arrives, one after the other, and hands each to the exchange.

Requests are answered in the order in which they came (RFC 9112 9.3.2): the next one is looked at when the one before
has ended, and nothing is looked at after `close`.
"""

import asyncio
from enum import Enum, auto
from typing import Final, cast

from lab.core.model import OPERATORS, POOL_STATUS
from lab.proxy import problems
from lab.proxy.backends.python_builtin.crowd import Crowd
from lab.proxy.backends.python_builtin.exchange import Exchange
from lab.proxy.backends.python_builtin.forwarding import NO_CLAIMS, RESPONSE_END, Introduction, claims_of
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.backends.python_builtin.outbox import reset
from lab.proxy.backends.python_builtin.tunnel import Tunnel
from lab.proxy.timeouts import NEVER, Timed
from lab.wire.http1 import (
    CHUNKED,
    BadMessageError,
    RequestFields,
    RequestHead,
    Section,
    parse_request,
    repeated,
    section_of,
)

_UNREAD_LIMIT: Final = 64 * 1024
"""Bytes of later requests that are kept while one is served; reading pauses beyond."""

_LINGER: Final = 2.0
"""Seconds. A connection closed with unread bytes is reset by the kernel, and the reset may overtake our last answer."""

_ALWAYS: Final = (OPERATORS.encode() + b"/", POOL_STATUS.encode() + b"/")
"""Below these paths the lab tells how it is, however much there is to do."""

_NOBODY: Final = ("", 0)
"""The address of a client that hung up before it was looked at."""


class State(Enum):
    """What a client's connection is doing."""

    READY = auto()
    """Between two requests, or in the middle of a head."""
    BUSY = auto()
    """The exchange has a request."""
    LINGERING = auto()
    """Everything has been said; what still arrives is thrown away."""
    CLOSING = auto()
    """Everything has been said and heard; the client has yet to take the end of it."""
    SWITCHED = auto()
    """It is one end of a tunnel, which hears what arrives."""


_READY, _BUSY, _LINGERING, _CLOSING, _SWITCHED = State
"""By name: see exchange.py."""


class Downstream(asyncio.Protocol, Timed):
    """One client's connection. Its deadline covers idle times, heads and lingering; a request has its own."""

    __slots__ = (
        "_claims",
        "_gateway",
        "_head_begun",
        "_introduced",
        "_reading",
        "_section",
        "_serving",
        "_silent",
        "_state",
        "_tunnel",
        "_unread",
        "address",
        "blocked",
        "client",
        "end",
        "end_for",
        "exchange",
        "own",
        "peer",
        "surplus",
        "transport",
    )

    _tunnel: Tunnel

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self.transport: asyncio.Transport
        self.peer = ""
        """The address at the other end."""
        self.client = ""
        """The address of whoever asks: that of the peer, unless the peer is trusted to speak for others."""
        self.address: tuple[str, int] = _NOBODY
        """With its port."""
        self.own = False
        """The lab itself is the client."""
        self.surplus = False
        """There were too many connections when it came: it may ask once, and is told so."""
        self.blocked = False
        """The client does not take what is sent to it."""
        self.end = b""
        """What a head ends with for a worker that speaks HTTP: the gateway's fields, and the empty line ..."""
        self.end_for: RequestFields | None = None
        """... of a request with these fields. For others, and while it is None, ask `end_of`."""
        self.exchange = Exchange(self, gateway)
        self._gateway = gateway
        self._state = _READY
        self._unread = b""
        self._head_begun = False
        self._silent = False
        """The client says no more than what is unread."""
        self._serving = False
        self._reading = True
        self._section: Section | None = None
        """The field lines of its last request, which the next one nearly always has, too."""
        self._introduced: Introduction | None = None
        self._claims = NO_CLAIMS

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.address = transport.get_extra_info("peername", _NOBODY)[:2]
        self.peer = self.client = self.address[0]
        self.own = self.address in self._gateway.own_addresses
        self.exchange.counters = self._gateway.counters[self.own]
        self._gateway.downstreams.add(self)
        self._arm(self._gateway.timeouts.idle)
        crowd = self._gateway.crowd
        if crowd is not None and not self.own and not crowd.came(self, len(self._gateway.downstreams)):
            self._refuse(problems.too_crowded(crowd.limit))

    def data_received(self, data: bytes) -> None:
        if self._state is _READY:
            self._unread = self._unread + data if self._unread else data
            if self.blocked:
                self._bound_unread()
            else:
                self._serve()
        elif self._state is _BUSY:
            rest = self.exchange.receive(data)
            if rest:
                self._unread += rest
                if self._state is _READY and not self.blocked:
                    self._serve()  # the request was answered as soon as its end was here
                else:
                    self._bound_unread()

    def eof_received(self) -> bool:
        """The client will say no more. True: its connection stays open, for it waits to be answered.

        Whoever announced that this request is the last, by `Connection: close` or HTTP/1.0, may end its half behind
        it, as `printf ... | nc -N` does. From anybody else it is the only sign there is that nobody waits any more: who
        wants an answer closes when it has read it (RFC 9112 9.6). Of several requests that were sent at once, the last
        one tells.
        """
        exchange, busy = self.exchange, self._state is _BUSY
        last = busy and not exchange.uploading and not exchange.request.fields.keep_alive
        self._silent = bool(self._unread) and (busy or self.blocked)
        return last or self._silent

    def connection_lost(self, exc: Exception | None) -> None:
        self._gateway.wheel.forget(self)
        self._gateway.hung_up(self)
        if self.own:
            self._gateway.own_addresses.discard(self.address)
        self.exchange.abandon()
        self._gateway.wheel.forget(self.exchange)

    def pause_writing(self) -> None:
        self.blocked = True
        self.exchange.hold(True)

    def resume_writing(self) -> None:
        self.blocked = False
        self.exchange.hold(False)
        if self._state is _READY:
            self.resume_reading()
            self._serve()

    # -- the exchange's side

    def write(self, data: bytes) -> None:
        """Send to the client. What is written in one turn of the loop leaves in one system call."""
        self._gateway.outbox.send(self.transport, data)

    def pause_reading(self) -> None:
        """Take nothing more from the client for now. May be called twice."""
        if self._reading and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more from the client again. May be called twice."""
        if not self._reading and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    def end_of(self, fields: RequestFields) -> bytes:
        """What is to be `end` for a request with these fields. It is the same for nearly all of a connection's."""
        self.end_for = fields
        introduced = Introduction(fields.host, fields.modern, fields.length == CHUNKED, self._claims)
        if introduced != self._introduced:
            self._introduced, gateway = introduced, self._gateway
            self.end = introduced.fields(self.peer, gateway.proto, gateway.authority, gateway.pseudonym)
        return self.end

    @property
    def secure(self) -> bool:
        """Whether the client of the present request speaks TLS, here or to a proxy in front that is trusted."""
        return (self._claims.proto or self._gateway.proto) == b"https"

    def finished(self, keep: bool, now: float) -> None:
        """The exchange has ended and its answer is written. `keep`: the client may send another request."""
        gateway = self._gateway
        if not keep or gateway.draining:
            self._close()
            return
        self._state = _READY
        self.deadline = due = now + gateway.timeouts.idle
        if due < self.looked_at:
            gateway.wheel.arm(self, due)
        if gateway.crowd is not None:
            gateway.crowd.rests(self)
        if not self._reading:
            self.resume_reading()
        if (self._unread or self._silent) and not self._serving:
            self._serve()

    def hand_over(self, tunnel: Tunnel) -> bytes:
        """No further request follows: `tunnel` has the connection now. Returns what the client sent behind the last."""
        self._state = _SWITCHED
        self._tunnel = tunnel
        early, self._unread = self._unread, b""
        return early

    def reset(self) -> None:
        """End the connection so that the client cannot take what it got for complete."""
        reset(self.transport)

    # -- the proxy's side

    def register(self, crowd: Crowd) -> None:
        """The number of connections is limited from now on."""
        if self._state is _READY and not self._unread:
            crowd.rests(self)

    def make_room(self) -> None:
        """Close an idle connection in favour of a new one."""
        self._state = _CLOSING
        self._gateway.downstreams.discard(self)
        self._gateway.outbox.flush()
        self.transport.close()

    def drain(self) -> None:
        """Close if nothing is going on; otherwise the request in flight will be the last."""
        if self._state is _READY and not self._unread:
            self.transport.close()
        elif self._state is _SWITCHED:
            self._tunnel.drain()

    def break_off(self) -> None:
        """The time to drain is over: tell who still waits for an answer."""
        if self._state is _BUSY:
            self.exchange.fail(problems.closing(self._gateway.timeouts.drain))
        elif self._state is _READY:
            self.transport.abort()

    def expired(self) -> None:
        if self._state is _READY and self._unread not in (b"", b"\r\n") and not self.blocked:
            self._refuse(problems.HEAD_TOO_SLOW)
        elif self._state is _CLOSING:
            self.reset()
        else:
            self.transport.abort()

    # -- inside

    def _serve(self) -> None:
        """Begin every request that is complete and whose turn it is."""
        self._serving = True
        gateway = self._gateway
        while self._unread and self._state is _READY and not self.blocked:
            limits, unread, section = gateway.limits, self._unread, self._section
            request = None if section is None else repeated(unread, section, limits)
            if request is None:
                try:
                    request = parse_request(unread, limits)
                except BadMessageError as bad:
                    self._refuse(problems.bad_message(bad.status, bad.detail))
                    break
                if request is None:
                    self._await_head()
                    break
                self._section = section_of(unread, request, limits) if request.fields.keep_alive else None
            if gateway.wary:
                self._hear(unread[: request.end])
                if self._is_turned_away(request):
                    break
            self._unread = b""
            self._state = _BUSY
            self._head_begun = False
            self.deadline = NEVER
            self._unread = self.exchange.begin(request, unread[request.end :])
            if self._silent and self._has_left():
                self._part()
        self._serving = False
        if self._silent and self._state is _READY and not (self._unread or self.blocked):
            self._part()

    def _has_left(self) -> bool:
        """Whether a client that says no more does not wait for an answer either, as it said in its last request."""
        exchange = self.exchange
        asks_on = exchange.request.fields.keep_alive and not self._unread
        return self._state is _BUSY and (exchange.uploading or asks_on)

    def _part(self) -> None:
        """Let a client have the answers that it waits for, and no more."""
        self.exchange.abandon()
        self.exchange.upload, self._unread = None, b""
        self._close()

    def _hear(self, head: bytes) -> None:
        """Find out whom the next request is from, if the peer may say so."""
        trust = self._gateway.trust
        claims = claims_of(head) if self._gateway.trusts(self.peer) else NO_CLAIMS
        if claims is not self._claims:
            self._claims, self.end_for = claims, None
        self.client = self.peer if trust is None else trust.client(self.peer, self._claims)

    def _is_turned_away(self, request: RequestHead) -> bool:
        """Whether there are too many connections for this request; what the lab says of itself is always answered."""
        crowd = self._gateway.crowd
        if crowd is None:
            return False
        crowd.left(self)
        path = request.target.partition(b"?")[0]
        if not self.surplus or (path + b"/").startswith(_ALWAYS):
            return False
        self._refuse(problems.too_crowded(crowd.limit))
        return True

    def _bound_unread(self) -> None:
        """Take no more of later requests than there is room for."""
        if len(self._unread) > _UNREAD_LIMIT:
            self.pause_reading()

    def _await_head(self) -> None:
        if self._silent:
            self._part()
        elif not self._head_begun:
            self._head_begun = True
            self._arm(self._gateway.timeouts.request_head)

    def _refuse(self, problem: problems.Problem) -> None:
        """Answer what could not become a request."""
        counters = self._gateway.counters[self.own]
        counters.accepted += 1
        counters.end(problem.outcome)
        if self._gateway.recorder.log is not None:
            self._gateway.recorder.write_refused(self, problem)
        self._gateway.refused(problem)
        end = self._gateway.date.line(self._gateway.now()) + RESPONSE_END[False, True, False]
        if self._gateway.recorder.explains_problems:
            end = problem.proxy_status("") + end
        self.write(problem.response(end, with_body=True))
        self._linger()

    def _close(self) -> None:
        if self._unread or self.exchange.uploading:
            self._linger()
        else:
            self._state = _CLOSING
            self._gateway.outbox.flush()
            self.transport.close()
            self._arm(self._gateway.timeouts.idle)

    def _linger(self) -> None:
        self._state = _LINGERING
        self._unread = b""
        self.exchange.upload = None
        self._gateway.outbox.flush()
        if not self.transport.is_closing():
            self.transport.write_eof()
            self.resume_reading()
        self._arm(_LINGER)

    def _arm(self, seconds: float) -> None:
        self._gateway.wheel.arm(self, self._gateway.now() + seconds)


class Plaintext(Downstream):
    """A client that speaks no TLS where TLS is spoken: it is told so, whatever it says."""

    def data_received(self, data: bytes) -> None:
        if self._state is _READY:
            self._refuse(problems.no_tls(self._gateway.authority.decode()))
