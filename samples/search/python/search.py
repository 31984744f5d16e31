"""search: the same worker as search.c, in Python's standard library alone.

    python search.py PORT     (or PORT in the environment)
    GET /health               200 as soon as it listens
    GET /anything?q=tcp       {"query": "tcp", "results": ["..."], "pid": 4121, "language": "python"}

One thread waits for whichever connection can go on, so many clients may stay connected and a slow one delays nobody.
Answers are computed one after another: a concurrency above one saves waiting for the network, never for the processor.
After SIGTERM it answers what has arrived, closes its socket and exits with 0.
"""

import json
import os
import re
import selectors
import signal
import socket
import sys
import time
from collections import namedtuple
from pathlib import Path
from urllib.parse import unquote_plus

CLIENTS = 256
RESULTS = 5
HEAD = 8192
OUT = 64 * 1024
"""More than this waiting for a client who does not read, and no further request of his is answered."""

FACTS: list[str] = json.loads(f"[{(Path(__file__).parents[1] / 'facts.inc').read_text('utf-8').rstrip().rstrip(',')}]")
LOWERED = [fact.lower() for fact in FACTS]
REQUEST_LINE = re.compile(rb"([A-Z]+) ([!-~\x80-\xff]+) HTTP/1\.([0-9])")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")


Request = namedtuple("Request", "method target length close expects")


class RefusedError(Exception):
    """The request is answered with `status`, and the connection closed."""

    def __init__(self, status: str, wrong: str) -> None:
        super().__init__(wrong)
        self.status = status


def parse(head: bytes) -> Request:
    """Read a head without its empty line. Doubtful framing is refused: where two servers disagree about the end of a
    request, an attacker can hide a second one in the first (RFC 9112 section 11.2)."""
    first, *lines = head.split(b"\r\n")
    request = REQUEST_LINE.fullmatch(first)
    fields = [FIELD.fullmatch(line) for line in lines]
    if request is None:
        raise RefusedError("400 Bad Request", "expected a first line like: GET /path HTTP/1.1")
    if not all(fields):
        raise RefusedError("400 Bad Request", "expected fields like Name: value, each ended by CR LF")
    method, target, minor = request.groups()
    named: dict[bytes, list[bytes]] = {}
    for field in filter(None, fields):
        named.setdefault(field[1].lower(), []).append(field[2])
    if b"transfer-encoding" in named:
        raise RefusedError("411 Length Required", "expected a Content-Length; this server reads no chunked bodies")
    lengths = named.get(b"content-length", [b"0"])
    if len(lengths) != 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise RefusedError("400 Bad Request", "expected one Content-Length, of digits only")
    if minor != b"0" and len(named.get(b"host", [])) != 1:
        raise RefusedError("400 Bad Request", "expected exactly one Host field")
    close = minor == b"0" or any(b"close" in value.lower() for value in named.get(b"connection", []))
    expects = any(value.lower() == b"100-continue" for value in named.get(b"expect", []))
    return Request(method, target.decode("latin-1"), int(lengths[0]), close, expects)


def search(target: str) -> dict[str, object]:
    """Every fact that has all words of the first parameter `q`, as the interface promises it."""
    parameters = target.partition("?")[2].split("&")
    written = next((text[2:] for text in parameters if text.startswith("q=")), "")
    query = unquote_plus(written.encode("latin-1").decode("utf-8", "replace"))
    words = query.lower().split()
    found = [fact for fact, text in zip(FACTS, LOWERED, strict=True) if words and all(word in text for word in words)]
    return {"query": query, "results": found[:RESULTS], "pid": os.getpid(), "language": "python"}


def respond(request: Request) -> bytes:
    """The answer to a well-formed request."""
    if request.target == "/health":
        return response("200 OK", {"status": "ok", "pid": os.getpid()}, request.method, request.close)
    return response("200 OK", search(request.target), request.method, request.close)


def response(status: str, document: dict[str, object], method: bytes, close: bool) -> bytes:
    """A whole response with `document` as its JSON body."""
    body = json.dumps(document, ensure_ascii=False).encode() + b"\n"
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    head = f"HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    ending = "Connection: close\r\n\r\n" if close else "\r\n"
    return (head + ending).encode() + (b"" if method == b"HEAD" else body)


class Connection:
    """What was read and not used yet, and what was answered and not sent yet, of one client."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.received = bytearray()
        self.out = bytearray()
        self.held = b""
        """An answer that waits until `skip` more bytes, the rest of its request's body, have come."""
        self.skip = 0
        self.closing = False

    @property
    def idle(self) -> bool:
        """Nothing begun, nothing left to send."""
        return not (self.received or self.out or self.skip)

    def serve(self, stopping: bool) -> bool:
        """Read once, answer everything that is complete, write once. False: this connection is over."""
        try:
            if not self.out and not self.read():
                return False
            while self.answer(stopping):
                pass
            if self.out:
                del self.out[: self.client.send(self.out)]
            if self.closing and self.idle:
                # Not close: unread input would destroy the answer on its way.
                self.client.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return not (stopping and self.idle)

    def read(self) -> bool:
        """Take what has come; False at the end of the stream."""
        try:
            data = self.client.recv(64 * 1024)
        except BlockingIOError:
            return True
        self.received += data
        return bool(data)

    def answer(self, stopping: bool) -> bool:
        """Drop what came of a body, then answer the next request. False: it has still to come, or enough is unsent."""
        come = min(self.skip, len(self.received))
        del self.received[:come]
        self.skip -= come
        if self.skip:
            return False
        self.out += self.held
        self.held = b""
        if self.closing:
            self.received.clear()
        end = self.received.find(b"\r\n\r\n", 0, HEAD)
        if len(self.out) > OUT or (end < 0 and len(self.received) < HEAD):
            return False
        try:
            self.begin(end, stopping)
        except RefusedError as refused:
            self.closing = True
            self.held = response(refused.status, {"error": str(refused)}, b"", close=True)
        return True

    def begin(self, end: int, stopping: bool) -> None:
        """Prepare the answer to the request whose head ends at `end`."""
        if end < 0:
            raise RefusedError("431 Request Header Fields Too Large", f"expected a head of at most {HEAD} bytes")
        request = parse(bytes(self.received[:end]))
        del self.received[: end + 4]
        self.closing = request.close or stopping
        self.skip = request.length
        self.held = respond(request._replace(close=self.closing))
        if request.expects and request.length:
            self.out += b"HTTP/1.1 100 Continue\r\n\r\n"


class Server:
    """The listening socket, and everybody who is connected to it."""

    def __init__(self, port: int) -> None:
        self.stopping = False
        self.places = CLIENTS
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(socket.SOMAXCONN)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, and until what had arrived by then is answered."""
        self.catch_signals()
        while not self.stopping or self.selector.get_map():
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self.admit()
                elif isinstance(key.data, Connection):
                    self.serve(key.data)
                else:
                    self.stop(key.fileobj)
                    break  # stopping closes connections that this list may still name

    def catch_signals(self) -> None:
        """Make a signal one more thing to wait for: Python writes its number to a socket that the selector watches."""
        noticed, self.written = socket.socketpair()
        self.written.setblocking(False)
        signal.set_wakeup_fd(self.written.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self.selector.register(noticed, selectors.EVENT_READ)

    def admit(self) -> bool:
        """Take in one connection; False when none waits, or the last place went: then others wait in the backlog."""
        try:
            client, _ = self.listener.accept()
        except OSError:
            return False
        client.setblocking(False)
        self.selector.register(client, selectors.EVENT_READ, Connection(client))
        self.places -= 1
        if not self.places:
            self.selector.unregister(self.listener)
        return self.places > 0

    def serve(self, connection: Connection) -> None:
        """Let one connection go on, then wait for what it needs next."""
        if connection.serve(self.stopping):
            wanted = selectors.EVENT_WRITE if connection.out else selectors.EVENT_READ
            self.selector.modify(connection.client, wanted, connection)
        else:
            self.selector.unregister(connection.client)
            connection.client.close()
            self.places += 1
            if self.places == 1 and not self.stopping:
                self.selector.register(self.listener, selectors.EVENT_READ)

    def stop(self, noticed: socket.socket) -> None:
        """Take in who has connected already, then listen no more; answer what came, close who is idle."""
        self.stopping = True
        self.selector.unregister(noticed)
        while self.places and self.admit():
            pass
        if self.places:
            self.selector.unregister(self.listener)
        self.listener.close()
        for key in list(self.selector.get_map().values()):
            self.serve(key.data)


def main() -> None:
    text = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", "")
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        sys.exit(f"search: found port {text!r}, expected 1 to 65535; usage: search.py PORT")
    server = Server(int(text))
    sys.stderr.write(f"search: pid {os.getpid()} listens on 127.0.0.1:{text}\n")
    server.run()


if __name__ == "__main__":
    main()
