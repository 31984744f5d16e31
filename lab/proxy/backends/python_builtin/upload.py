"""A request's body on its way to a worker: framed, kept while nobody can take it, and in time.

It is kept until there is a connection; some of it is waited for before a worker is chosen, where its app wants that;
and all of it, where a program has to be told its length. What was sent is kept on, within bounds, as long as it might
have to be sent once more. While a body comes, it has to bring its least in each stretch of time (slow clients, RFC 9110
15.5.9); while the worker does not take it, nobody is asked for more.
"""

from typing import TYPE_CHECKING, Final

from lab.proxy import problems
from lab.proxy.backends.python_builtin.phase import ACCEPTED, COLLECTING, RELAYING, WAITING
from lab.wire import cgi
from lab.wire.bodies import incoming
from lab.wire.http1 import CHUNKED, IDEMPOTENT, BadMessageError, with_length

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.connection import WorkerConnection
    from lab.proxy.backends.python_builtin.exchange import Exchange
    from lab.proxy.backends.python_builtin.gateway import Gateway

_HELD_LIMIT: Final = 64 * 1024
"""Bytes that are kept while there is no connection; reading pauses beyond."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Upload:
    """One exchange's request body."""

    __slots__ = (
        "_body",
        "_enough",
        "_exchange",
        "_gateway",
        "continued",
        "held",
        "judged_from",
        "received",
        "repeatable",
    )

    def __init__(self, exchange: "Exchange", gateway: "Gateway", length: int) -> None:
        """`length` is in bytes, or `CHUNKED`."""
        self.received = 0
        """Bytes of it that are here."""
        self.held = b""
        """What is kept of it: what was not sent yet, and what may have to be sent once more."""
        self.repeatable = True
        """All that was sent of it is kept."""
        self.judged_from = -1
        """How much of it had come when it was last begun to look how fast it comes; -1 while nobody looks."""
        self._exchange = exchange
        self._gateway = gateway
        self._body = incoming(length, 400, exchange.request.fields.dropped)
        self._enough = 0
        """How much of it is collected before a worker is chosen; 0 while all of it is."""
        self.continued = False
        """The client was told to send it."""

    @property
    def done(self) -> bool:
        """All of it has arrived."""
        return self._body.done

    @property
    def trailers(self) -> bytes:
        """Field lines that came after it and may travel on."""
        return self._body.trailers

    def begin(self, data: bytes) -> bytes:
        """`data` came right behind the request's head. Returns what of it does not belong to the request."""
        length = self._exchange.request.fields.length
        limit = self._gateway.limits.body
        if length > limit:
            self._exchange.fail(problems.body_too_large(limit))
            return b""
        return self.receive(data) if data else b""

    def receive(self, data: bytes) -> bytes:
        """More of it. Returns what lies behind its end."""
        exchange, limit = self._exchange, self._gateway.limits.body
        try:
            payload = self._body.feed(data)
        except BadMessageError as bad:
            exchange.fail(problems.bad_message(bad.status, bad.detail))
            return b""
        self.received += len(payload)
        if self.received > limit:
            exchange.fail(problems.body_too_large(limit))
            return b""
        self._send_on(payload)
        exchange.arm_transfer()
        return self._body.rest

    def gather(self, enough: int) -> bool:
        """Let so much of it come before a worker is chosen, for a client may be slow.

        False: it is here, or the client waits to be told that it is wanted. Otherwise it will be admitted again.
        """
        if self.done or len(self.held) >= enough or cgi.expects_continue(self._exchange.request):
            return False
        self._enough = enough
        self._exchange.phase = COLLECTING
        self.judge_from_now()
        return True

    def collect(self) -> None:
        """Wait for the end of a body in chunks, within a bound; then it has a length, and its turn comes."""
        exchange, limit = self._exchange, self._gateway.limits.cgi_buffer
        if len(self.held) > limit:
            exchange.fail(problems.length_required(limit))
        elif self.done:
            exchange.request = with_length(exchange.request, len(self.held))
        else:
            begun, exchange.phase, self._enough = exchange.phase is COLLECTING, COLLECTING, 0
            self._continue()
            exchange.downstream.resume_reading()
            if not begun:
                self.judge_from_now()

    def connected(self, connection: "WorkerConnection") -> None:
        """What is held of it was sent, and the rest is wanted."""
        self.judged_from = -1
        self._exchange.arm_transfer()
        if not connection.blocked:
            self._exchange.downstream.resume_reading()
        if not connection.dialect.continues:
            self._continue()

    def is_taken(self, connection: "WorkerConnection") -> bool:
        """Whether a worker that answers now will not take a part of it for its next request.

        Who answers early, or without a word to a client that waits to be told to send it, may leave it lying there:
        nginx gives up such a connection as well (`request_body_sent`), and RFC 9110 10.1.1 asks workers to close it.
        """
        if not connection.dialect.continues:
            return True  # its records say where each request ends
        return self.done and (self.continued or not cgi.expects_continue(self._exchange.request))

    def judge_from_now(self) -> None:
        """Give it a stretch of time in which it has to bring its least."""
        self.judged_from = self.received
        self._exchange.arm(self._exchange.upstream.spec.timeouts.request_body)

    def judge(self) -> None:
        """That time is over: did enough come?"""
        timeouts = self._exchange.upstream.spec.timeouts
        least = max(1, timeouts.request_body_rate * timeouts.request_body)
        if self.received - self.judged_from >= least:
            self.judge_from_now()
        else:
            self._exchange.fail(problems.body_too_slow(timeouts.request_body, timeouts.request_body_rate))

    def left(self) -> "Upload | None":
        """What is left of it when its request has ended: itself, if more of it comes, which nobody wants."""
        self.held = b""
        return None if self.done else self

    def _send_on(self, payload: bytes) -> None:
        exchange = self._exchange
        if exchange.phase is WAITING or exchange.phase is RELAYING:
            self._keep_sent(payload)
            connection = exchange.connection
            self._gateway.outbox.send(connection.transport, connection.dialect.upload(payload, self._body))
            return
        self.held += payload
        if exchange.phase is COLLECTING:
            if self._is_gathered():
                exchange.phase = ACCEPTED
                exchange.upstream.admit(exchange)
        elif not self.done and len(self.held) > _HELD_LIMIT:
            exchange.downstream.pause_reading()

    def _keep_sent(self, payload: bytes) -> None:
        """Hold what is sent, as long as it might have to be sent once more."""
        exchange = self._exchange
        wanted = self.repeatable and exchange.phase is WAITING and exchange.upstream.guard.retries.repeats
        if wanted and exchange.request.method in IDEMPOTENT and len(self.held) + len(payload) <= _HELD_LIMIT:
            self.held += payload
        else:
            self.repeatable, self.held = False, b""

    def _is_gathered(self) -> bool:
        """Whether as much of it is here as was waited for."""
        if self._enough:
            return self.done or len(self.held) >= self._enough
        self.collect()
        return self._exchange.request.fields.length != CHUNKED

    def _continue(self) -> None:
        """Tell a client that waits for it to send it, in place of a worker that cannot (RFC 9110 10.1.1)."""
        if not self.continued and cgi.expects_continue(self._exchange.request):
            self.continued = True
            self._exchange.downstream.write(_CONTINUE)
