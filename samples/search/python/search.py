"""search: the same worker as search.c, in Python's standard library alone, with a thread for each connection.

    python search.py PORT   listens on a port of this machine; with /PATH on a Unix socket
    python search.py        finds PORT or SOCKET in its environment, or with LISTEN_FDS=1 a listening socket as
                            descriptor 3, or is one CGI request
    GET /health             200 as soon as it listens
    GET /anything?q=tcp     {"query": "tcp", "results": ["..."], "pid": 4121, "language": "python"}

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
from io import BufferedReader
from pathlib import Path
from urllib.parse import unquote_plus

RESULTS, HEAD = 5, 8192
FACTS: list[str] = json.loads(f"[{(Path(__file__).parents[1] / 'facts.inc').read_text('utf-8').rstrip().rstrip(',')}]")
HEADS = re.compile(
    rb"([A-Z]+) ([!-~\x80-\xff]+) HTTP/1\.([0-9])\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\r\n)*)\r\n"
)
"""Whatever else comes is refused: where two servers disagree about the end of a request, an attacker can hide a second
one in the first (RFC 9112 section 11.2)."""
BODY = re.compile(rb"^(transfer-encoding:|content-length:[ \t]*(?!0[ \t]*\r))", re.IGNORECASE | re.MULTILINE)
CLOSE = re.compile(rb"^connection:.*close", re.IGNORECASE | re.MULTILINE)

idle: set[socket.socket] = set()  # the connections whose clients have begun no request
stopping = threading.Event()


def parse(head: bytes) -> tuple[bytes, str, bool]:
    """Method, target, and whether this is its connection's last request. `ValueError` says why it is refused."""
    if not head.endswith(b"\r\n\r\n"):
        raise ValueError(f"431 Request Header Fields Too Large: expected a head of at most {HEAD} bytes")
    if not (request := HEADS.fullmatch(head)):
        raise ValueError("400 Bad Request: expected GET /path HTTP/1.1, then fields like Name: value, with CR LF")
    method, target, minor, fields = request.groups()
    if method not in (b"GET", b"HEAD"):
        raise ValueError("405 Method Not Allowed: expected GET or HEAD")
    if BODY.search(fields):
        raise ValueError("400 Bad Request: expected no body")
    return method, target.decode("latin-1"), minor == b"0" or bool(CLOSE.search(fields))


def search(query_string: str) -> dict[str, object]:
    """Every fact that has all words of the first parameter `q`, as the interface promises it."""
    written = next((text[2:] for text in query_string.split("&") if text.startswith("q=")), "")
    query = unquote_plus(written.encode("latin-1", "replace").decode("utf-8", "replace"))
    words = query.lower().split()
    found = [fact for fact in FACTS if words and all(word in fact.lower() for word in words)]
    return {"query": query, "results": found[:RESULTS], "pid": os.getpid(), "language": "python"}


def encode(document: dict[str, object]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def response(status: str, document: dict[str, object], close: bool, method: bytes = b"GET") -> bytes:
    """A whole response with `document` as its JSON body."""
    body = encode(document)
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    head = f"HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += ("Allow: GET, HEAD\r\n" if status[0] == "4" else "") + ("Connection: close\r\n" if close else "") + "\r\n"
    return head.encode() + (b"" if method == b"HEAD" else body)


def more(client: socket.socket, stream: BufferedReader) -> bool:
    """Wait for the first byte of a request. False at the end of the stream, or when this worker is to end."""
    idle.add(client)
    if stopping.is_set():
        client.shutdown(socket.SHUT_RD)
    try:
        return bool(stream.peek(1))
    finally:
        idle.discard(client)


def answer(client: socket.socket, stream: BufferedReader) -> bool:
    """Answer one request; False when it was the last. A line may come in pieces: `readline` waits for its end."""
    head = b""
    while len(head) < HEAD and not head.endswith(b"\r\n\r\n"):
        line = stream.readline(HEAD - len(head))
        if not line:
            return False
        head += line
    try:
        method, target, close = parse(head)
        close = close or stopping.is_set()
        healthy = {"status": "ok", "pid": os.getpid()}
        document = healthy if target == "/health" else search(target.partition("?")[2])
        client.sendall(response("200 OK", document, close, method))
        return not close
    except ValueError as refused:
        status, _, wrong = str(refused).partition(": ")
        client.sendall(response(status, {"error": wrong}, close=True))
        return False


def serve(client: socket.socket) -> None:
    """One connection, from the first request to the last."""
    with suppress(OSError), client, client.makefile("rb") as stream:  # an error is: the client went away
        while more(client, stream) and answer(client, stream):
            pass
        client.shutdown(socket.SHUT_WR)  # not close: unread input would destroy the answer on its way
        while more(client, stream):
            stream.read1()


def admit(listener: socket.socket) -> bool:
    """Take in one connection. False: none waits, or, of a shared socket, another worker was quicker."""
    try:
        client, _ = listener.accept()
    except OSError:
        return False
    client.setblocking(True)
    threading.Thread(target=serve, args=(client,)).start()
    return True


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


def main() -> None:
    inherited = len(sys.argv) < 2 and os.environ.get("LISTEN_PID") == str(os.getpid())  # sd_listen_fds(3)
    place = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SOCKET") or os.environ.get("PORT", "")
    # A signal becomes one more thing to wait for: Python writes its number into one socket, out of the other it can be
    # read. That comes before listening: whoever gets through to this worker can also end it in order.
    noticed, written = socket.socketpair()
    written.setblocking(False)
    signal.set_wakeup_fd(written.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    listener = socket.socket(fileno=3) if inherited else listen(place)
    listener.setblocking(False)
    if listener.family == socket.AF_INET:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections have it from here
    sys.stderr.write(f"search: pid {os.getpid()} listens at {'descriptor 3' if inherited else place}\n")
    while noticed not in select.select([listener, noticed], [], [])[0]:
        admit(listener)
    # Who waits in the backlog of a socket of our own is taken in first, and no more than fit there: who keeps coming
    # must not keep it from its end. An inherited one stays open elsewhere, and the next worker takes them. The threads
    # go on with what they have begun: Python waits for all of them.
    for _ in range(0 if inherited else socket.SOMAXCONN):
        if not admit(listener):
            break
    listener.close()
    stopping.set()
    for client in tuple(idle):
        with suppress(OSError):
            client.shutdown(socket.SHUT_RD)  # to its thread it is as if its client had hung up
    if place.startswith("/") and not inherited:
        Path(place).unlink(missing_ok=True)


if __name__ == "__main__":
    if "GATEWAY_INTERFACE" in os.environ:  # CGI (RFC 3875): the answer goes to standard output, and the process ends
        found = encode(search(os.environ.get("QUERY_STRING", "")))
        sys.stdout.buffer.write(b"Content-Type: application/json\r\n\r\n" + found)
    else:
        main()
