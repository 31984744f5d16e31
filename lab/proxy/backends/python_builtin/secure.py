"""TLS on a client's connection: what OpenSSL makes of the bytes, between the socket and whoever serves the client.

Why not uvloop's own: it keeps a buffer of 256 KiB for each connection, which glibc soon takes from its heap, where it
is seldom given back: 10,000 handshakes that broke off left 70 MB behind, now 0.2; 5,000 idle clients held 240 MB, now
100, of which OpenSSL itself takes 85. And it gives a client one time for two things, to take the last of an answer and
to say goodbye: with a short one a slow client's answer was cut off, with a long one whoever never says goodbye stays.
Here data is read into the loop's one buffer, and closing is what it is without TLS: the rest is delivered within the
connection's own deadlines. A request costs the same (59 to 75 us of CPU with either, small answers, 32 clients).

Each direction can end alone (RFC 8446 6.1). An end without a word (`close_notify`) may be somebody else's doing, so it
breaks the connection off.
"""

import asyncio
import contextlib
import ssl
from typing import Any, Final, cast

_RECORD: Final = 16 * 1024
"""Bytes that a record carries at most (RFC 8446 5.1). No more than one passes through OpenSSL's buffers at a time, for
these never shrink again."""


class SecureTransport(asyncio.Transport, asyncio.Protocol):
    """To the socket's transport it is the protocol, to the client's protocol it is the transport."""

    __slots__ = ("_app", "_heard_end", "_incoming", "_outgoing", "_said_end", "_tls", "_under")

    def __init__(self, under: asyncio.Transport, context: ssl.SSLContext) -> None:
        super().__init__()
        self._under = under
        self._app: asyncio.Protocol
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._heard_end = False
        """The client has said everything."""
        self._said_end = False
        """We have."""

    # -- the handshake

    def shake(self, data: bytes) -> bool:
        """Go on with the handshake; returns whether it is done. Raises `ssl.SSLError`, which the client is told too."""
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._send()
        return True

    def begin(self, app: asyncio.Protocol) -> None:
        """The handshake is done: `app` has the connection from now on, and what the client has said already."""
        self._app = app
        self._under.set_protocol(self)
        app.connection_made(self)
        self.data_received(b"")

    # -- the socket's side

    def data_received(self, data: bytes) -> None:
        if self._heard_end:
            return
        try:
            clear, self._heard_end = self._read(data)
        except ssl.SSLError:
            self._send()  # the alert that says why
            self._under.close()
            return
        if clear:
            self._app.data_received(clear)
        if self._heard_end and not self._under.is_closing() and not self._app.eof_received():
            self.close()

    def eof_received(self) -> bool:
        if not self._heard_end:
            self._under.abort()
        return self._heard_end

    def connection_lost(self, exc: Exception | None) -> None:
        app = self._app
        del self._tls, self._incoming, self._outgoing, self._app  # or else they would wait for the garbage collector
        app.connection_lost(exc)

    def pause_writing(self) -> None:
        self._app.pause_writing()

    def resume_writing(self) -> None:
        self._app.resume_writing()

    # -- the client's side

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._under.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._app = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._app

    def is_closing(self) -> bool:
        return self._under.is_closing()

    def is_reading(self) -> bool:
        return self._under.is_reading()

    def pause_reading(self) -> None:
        self._under.pause_reading()

    def resume_reading(self) -> None:
        self._under.resume_reading()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not data or self._said_end or self._under.is_closing():
            return
        if len(data) <= _RECORD:
            self._tls.write(data)
            self._under.write(self._outgoing.read())
            return
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest[:_RECORD]) :]
            self._under.write(self._outgoing.read())

    def write_eof(self) -> None:
        self._say_end()
        self._under.write_eof()

    def close(self) -> None:
        """Deliver what was written, and an end that the client can tell from a connection that broke."""
        if not self._under.is_closing():
            self._say_end()
            self._under.close()

    def abort(self) -> None:
        self._under.abort()

    # -- inside

    def _read(self, data: bytes) -> tuple[bytes, bool]:
        """What the client said, in clear, and whether that is all it had to say. Raises `ssl.SSLError`."""
        incoming, tls = self._incoming, self._tls
        pieces, view, over = [], memoryview(data), False
        for begin in range(0, len(data) or 1, _RECORD):
            incoming.write(view[begin : begin + _RECORD])
            try:
                while (incoming.pending or tls.pending()) and not over:
                    piece = tls.read(_RECORD)
                    over = not piece
                    pieces.append(piece)
            except ssl.SSLWantReadError:  # in the middle of a record
                continue
            except ssl.SSLZeroReturnError:  # how it ends when we have said our end before
                over = True
        self._send()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), over

    def _say_end(self) -> None:
        if self._said_end:
            return
        self._said_end = True
        with contextlib.suppress(ssl.SSLError):  # it asks for the client's answer, which nobody has to wait for
            self._tls.unwrap()
        self._send()

    def _send(self) -> None:
        """What OpenSSL has to say by itself."""
        if self._outgoing.pending and not self._under.is_closing():
            self._under.write(self._outgoing.read())
