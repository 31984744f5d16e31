"""Messages as others read them: h11, and httptools, which is the parser of Node and uvicorn.

Each tells what it found, and behind which byte each message ended for it: two who agree on what a message says and not
on where it ends can be made to disagree on all that follow.
"""

from typing import NamedTuple

import h11
import httptools

from tests.conformance.messages import Request


class Read(NamedTuple):
    """A request as somebody read it."""

    request: Request
    end: int
    """Bytes up to its end."""
    trailers: tuple[tuple[bytes, bytes], ...]
    """Names in lower case, and values."""


class Told(NamedTuple):
    """A response as somebody read it."""

    status: int
    body: bytes
    end: int
    """Bytes up to its end; -1 for one that is broken off."""
    trailers: tuple[tuple[bytes, bytes], ...] = ()


def fields(lines: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Field lines as names and values."""
    pairs = (line.partition(b":") for line in lines.split(b"\r\n")[:-1])
    return tuple((name.lower(), value.strip(b" \t")) for name, _, value in pairs)


def by_h11(data: bytes) -> list[Read]:
    """The requests that h11 finds in `data`."""
    found: list[Read] = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            request, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            host = dict(request.headers)[b"host"]
            end = len(data) - len(connection.trailing_data[0])
            found.append(Read((request.method, request.target, host, body), end, tuple(event.headers)))
            connection.send(h11.Response(status_code=204, headers=[]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
        else:
            return found


def by_httptools(data: bytes) -> list[Read]:
    """The requests that httptools finds in `data`. It is fed byte by byte, for it does not tell where it stands."""
    found: list[Read] = []

    class Seen:
        target = host = body = b""
        at = 0
        late = False
        trailers: tuple[tuple[bytes, bytes], ...] = ()

        def on_message_begin(self) -> None:
            self.target = self.host = self.body = b""
            self.late, self.trailers = False, ()

        def on_url(self, piece: bytes) -> None:
            self.target += piece

        def on_header(self, name: bytes, value: bytes) -> None:
            if self.late:
                self.trailers += ((name.lower(), value.strip(b" \t")),)
            elif name.lower() == b"host":
                self.host = value.strip()

        def on_headers_complete(self) -> None:
            self.late = True

        def on_body(self, piece: bytes) -> None:
            self.body += piece

        def on_message_complete(self) -> None:
            found.append(Read((parser.get_method(), self.target, self.host, self.body), self.at, self.trailers))

    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    for seen.at, byte in enumerate(data, 1):
        parser.feed_data(bytes([byte]))
    return found


def told_to_h11(method: bytes, data: bytes, ended: bool) -> list[Told]:
    """The responses to a `method` that h11 finds in `data`; `ended`: the connection ended behind it, in order.

    Raises `h11.RemoteProtocolError` for what is none, and for one that is broken off.
    """
    found: list[Told] = []
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"x"), (b"Connection", b"close")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if ended and data:
        connection.receive_data(b"")
    status, body = 0, b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.InformationalResponse):
            found.append(Told(event.status_code, b"", 0))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            end = len(data) - len(connection.trailing_data[0])
            found.append(Told(status, body, end, tuple(event.headers)))
            return found
        else:
            if status:
                found.append(Told(status, body, -1))
            return found


def told_to_httptools(data: bytes, ended: bool) -> list[Told]:
    """The responses to a GET that httptools finds in `data`. Who has no length ends with the connection."""
    found: list[Told] = []

    class Seen:
        body = b""
        at = 0
        late = begun = False
        trailers: tuple[tuple[bytes, bytes], ...] = ()
        framed = False

        def on_message_begin(self) -> None:
            self.body, self.late, self.framed, self.trailers, self.begun = b"", False, False, (), False

        def on_header(self, name: bytes, value: bytes) -> None:
            if self.late:
                self.trailers += ((name.lower(), value.strip(b" \t")),)
            elif name.lower() in (b"content-length", b"transfer-encoding"):
                self.framed = True

        def on_headers_complete(self) -> None:
            self.late = self.begun = True

        def on_body(self, piece: bytes) -> None:
            self.body += piece

        def on_message_complete(self) -> None:
            status, self.begun = parser.get_status_code(), False
            end = 0 if status < 200 else self.at
            found.append(Told(status, self.body, end, self.trailers))

    seen = Seen()
    parser = httptools.HttpResponseParser(seen)
    for seen.at, byte in enumerate(data, 1):
        if found and found[-1].status >= 200:
            break
        parser.feed_data(bytes([byte]))
    if seen.begun:
        found.append(Told(parser.get_status_code(), seen.body, len(data) if ended and not seen.framed else -1))
    return found
