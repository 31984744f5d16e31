"""search: the same worker as search.c, in Python's standard library alone, with a thread for each connection.

    python search.py PORT, or python search.py /PATH   listens on a port of this machine, or on a Unix socket
    python search.py                                   finds PORT or SOCKET in its environment, or with LISTEN_FDS=1 a
                                                       listening socket as descriptor 3, or is one CGI request
    GET /health                                        200 as soon as it listens
    GET /anything?q=tcp                                {"query": "tcp", "results": ["..."], "pid": 4121, ...}

A thread may simply wait: the code reads from top to bottom, and the others go on meanwhile. Only one of them runs
Python at a time, so a concurrency above one saves waiting for the network, never for the processor.
After SIGTERM it answers what has arrived and exits with 0.
"""

import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote_plus

RESULTS = 5
HEAD = 8192
FACTS: list[str] = json.loads(f"[{(Path(__file__).parents[1] / 'facts.inc').read_text('utf-8').rstrip().rstrip(',')}]")
REQUEST_LINE = re.compile(rb"([A-Z]+) ([!-~\x80-\xff]+) HTTP/1\.([0-9])")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")


class RefusedError(Exception):
    """`400 Bad Request: expected ...`: the request is answered with this status, and the connection closed."""


def parse(head: bytes) -> tuple[bytes, str, bool]:
    """The method, the target, and whether this is its connection's last request. Doubtful framing is refused: where two
    servers disagree about the end of a request, an attacker can hide a second one in the first (RFC 9112 11.2)."""
    first, *lines = head.split(b"\r\n")
    if not (request := REQUEST_LINE.fullmatch(first)):
        raise RefusedError("400 Bad Request: expected a first line like: GET /path HTTP/1.1")
    method, target, minor = request.groups()
    if method not in (b"GET", b"HEAD"):
        raise RefusedError("405 Method Not Allowed: expected GET or HEAD")
    hosts, close = 0, minor == b"0"
    for line in lines:
        if not (field := FIELD.fullmatch(line)):
            raise RefusedError("400 Bad Request: expected fields like Name: value, each ended by CR LF")
        match field[1].lower(), field[2].lower():
            case b"transfer-encoding", _:
                raise RefusedError("411 Length Required: expected no chunked body")
            case b"content-length", length if length != b"0":
                raise RefusedError("400 Bad Request: expected no body")
            case b"connection", options:
                close |= b"close" in options
            case b"host", _:
                hosts += 1
    if hosts != 1 and minor != b"0":
        raise RefusedError("400 Bad Request: expected exactly one Host field")
    return method, target.decode("latin-1"), close


def search(query_string: str) -> dict[str, object]:
    """Every fact that has all words of the first parameter `q`, as the interface promises it."""
    written = next((text[2:] for text in query_string.split("&") if text.startswith("q=")), "")
    query = unquote_plus(written.encode("latin-1", "replace").decode("utf-8", "replace"))
    words = query.lower().split()
    found = [fact for fact in FACTS if words and all(word in fact.lower() for word in words)]
    return {"query": query, "results": found[:RESULTS], "pid": os.getpid(), "language": "python"}


def encode(document: dict[str, object]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def response(status: str, document: dict[str, object], close: bool, method: bytes = b"") -> bytes:
    """A whole response with `document` as its JSON body."""
    body = encode(document)
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    head = f"HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += ("Allow: GET, HEAD\r\n" if status[0] == "4" else "") + ("Connection: close\r\n" if close else "") + "\r\n"
    return head.encode() + (b"" if method == b"HEAD" else body)


class Server:
    """The listening socket, and a thread for everybody who is connected to it."""

    def __init__(self, listener: socket.socket, inherited: bool, signals: socket.socket) -> None:
        self.listener = listener
        self.inherited = inherited
        self.signals = signals
        self.stopping = False
        self.ending, self.going_on = os.pipe()
        """The first becomes readable, for all threads, when the second is closed."""
        listener.setblocking(False)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. What has begun by then goes on in its thread: Python waits for all of them."""
        while self.signals not in select.select([self.listener, self.signals], [], [])[0]:
            self.admit()
        self.stop()

    def admit(self) -> bool:
        """Take in one connection, if one waits: of a shared socket, another worker may have been quicker."""
        try:
            client, _ = self.listener.accept()
        except OSError:
            return False
        client.setblocking(True)
        threading.Thread(target=self.serve, args=(client,)).start()
        return True

    def stop(self) -> None:
        """Listen no more, and tell the threads. Who waits in the backlog of a socket of our own is taken in first; an
        inherited one stays open elsewhere: there the next worker takes them."""
        while not self.inherited and self.admit():
            pass
        self.stopping = True
        self.listener.close()
        os.close(self.going_on)

    def serve(self, client: socket.socket) -> None:
        """One connection, from the first request to the last."""
        received = bytearray()
        with suppress(OSError), client:
            if client.family == socket.AF_INET:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # no answer waits for more to send
            while self.answer(client, received):
                pass
            client.shutdown(socket.SHUT_WR)  # not close: unread input would destroy the answer on its way
            while self.read(client):
                pass

    def answer(self, client: socket.socket, received: bytearray) -> bool:
        """Answer the next request, of which `received` has come already; False when it was the last."""
        try:
            while (end := received.find(b"\r\n\r\n", 0, HEAD)) < 0:
                if len(received) >= HEAD:
                    raise RefusedError(f"431 Request Header Fields Too Large: expected a head of at most {HEAD} bytes")
                data = client.recv(HEAD) if received else self.read(client)
                if not data:
                    return False
                received += data
            method, target, close = parse(bytes(received[:end]))
        except RefusedError as refused:
            status, _, wrong = str(refused).partition(": ")
            client.sendall(response(status, {"error": wrong}, close=True))
            return False
        del received[: end + 4]
        close = close or self.stopping
        healthy = {"status": "ok", "pid": os.getpid()}
        document = healthy if target == "/health" else search(target.partition("?")[2])
        client.sendall(response("200 OK", document, close, method))
        return not close

    def read(self, client: socket.socket) -> bytes:
        """What comes from one who has begun nothing; nothing at the end of his stream, or if this worker is to end."""
        poller = select.poll()
        poller.register(client, select.POLLIN)
        poller.register(self.ending, select.POLLIN)
        came = {descriptor for descriptor, _ in poller.poll()}
        return client.recv(HEAD) if client.fileno() in came else b""


def catch_signals() -> tuple[socket.socket, socket.socket]:
    """SIGTERM and SIGINT become one more thing to wait for: Python writes their number into the second, out of the
    first it can be read."""
    noticed, written = socket.socketpair()
    written.setblocking(False)
    signal.set_wakeup_fd(written.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return noticed, written


def listen(place: str) -> socket.socket:
    """A new listening socket at a path or a port."""
    if place.startswith("/"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place)
        listener.listen(socket.SOMAXCONN)
        return listener
    if not (place.isascii() and place.isdigit() and 0 < int(place) < 65536):
        sys.exit(f"search: found port {place!r}, expected 1 to 65535; usage: search.py PORT")
    return socket.create_server(("127.0.0.1", int(place)), backlog=socket.SOMAXCONN)


def tell_ready() -> None:
    """sd_notify(3): whoever started us, and wants to know, need not ask again and again whether we listen."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", path.replace("@", "\0", 1))


def main() -> None:
    if "GATEWAY_INTERFACE" in os.environ:  # CGI (RFC 3875): the answer goes to standard output, and the process ends
        found = encode(search(os.environ.get("QUERY_STRING", "")))
        sys.stdout.buffer.write(b"Content-Type: application/json\r\n\r\n" + found)
        return
    inherited = len(sys.argv) < 2 and os.environ.get("LISTEN_PID") == str(os.getpid())  # sd_listen_fds(3)
    place = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SOCKET") or os.environ.get("PORT", "")
    signals, _written = catch_signals()  # before it listens: whoever gets through to it can also end it in order
    server = Server(socket.socket(fileno=3) if inherited else listen(place), inherited, signals)
    where = "descriptor 3" if inherited else place if place.startswith("/") else f"127.0.0.1:{place}"
    sys.stderr.write(f"search: pid {os.getpid()} listens at {where}\n")
    tell_ready()
    server.run()
    if place.startswith("/") and not inherited:
        Path(place).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
