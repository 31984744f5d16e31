"""What the lesson apps have in common: the classic worker, which answers one request at a time.

    python sleepy.py PORT     listens on a port of this machine; without one on PORT of its environment, or with
                              LISTEN_FDS=1 on the socket that it inherited as descriptor 3
    GET /health               200 whenever it is free to answer
    GET /anything?...         what the app does; each answer says which process gave it

It speaks HTTP/1.0, so every answer ends its connection: a client that keeps silent occupies nobody for long.
After SIGTERM it finishes the request in hand, answers those who wait on a socket of its own, and exits with 0.
"""

import json
import os
import signal
import socket
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl


class Worker(BaseHTTPRequestHandler):
    """One request. An app is a subclass with an `answer` of its own."""

    timeout = 5.0  # seconds that a silent client may occupy the worker
    disable_nagle_algorithm = True  # no part of an answer waits for more to send

    def answer(self, asked: dict[str, str]) -> None:
        """Reply to a request with these parameters. Raise `ValueError` for one that makes no sense."""
        raise NotImplementedError

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/health":
            return self.reply({"status": "ok"})
        try:
            return self.answer(dict(parse_qsl(query)))
        except ValueError as wrong:
            return self.reply({"error": str(wrong)}, HTTPStatus.BAD_REQUEST)

    def reply(self, document: dict[str, object], status: HTTPStatus = HTTPStatus.OK) -> None:
        """Send `document`, and which process made it."""
        body = json.dumps({**document, "pid": os.getpid(), "language": "python"}).encode() + b"\n"
        self.send_head(status, len(body))
        self.wfile.write(body)

    def send_head(self, status: HTTPStatus, length: int) -> None:
        """Send everything before a JSON body of `length` bytes."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: the proxy counts requests."""


def number(asked: dict[str, str], name: str, otherwise: float, most: float) -> float:
    """The parameter `name` as a number from 0 to `most`. Raises `ValueError`."""
    written = asked.get(name, str(otherwise))
    try:
        value = float(written)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise ValueError(f"found {name}={written}, expected a number from 0 to {most:g}")
    return value


class Server(HTTPServer):
    """Serves one connection after the other; the others wait in the kernel's backlog."""

    request_queue_size = 511

    def __init__(self, listener: socket.socket, app: type[Worker]) -> None:
        super().__init__(("", 0), app, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        listener.setblocking(False)  # of a shared socket, another worker may take what select has told
        self.timeout = 0.0
        self.somebody_waits = True

    def handle_timeout(self) -> None:
        """Nobody waits."""
        self.somebody_waits = False

    def finish(self) -> None:
        """Answer those who have connected already."""
        while self.somebody_waits:
            self.handle_request()


def bind(port: str, usage: str) -> socket.socket:
    """A socket of this machine's loopback at `port`."""
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        sys.exit(f"found port {port!r}, expected 1 to 65535; usage: {usage}")
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", int(port)))
    return bound


def run(app: type[Worker]) -> None:
    """Serve until SIGTERM or SIGINT."""
    name = app.__name__.lower()
    inherited = len(sys.argv) < 2 and os.environ.get("LISTEN_PID") == str(os.getpid())  # sd_listen_fds(3)
    port = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", "")
    server = Server(socket.socket(fileno=3) if inherited else bind(port, f"{name}.py PORT"), app)
    for asked_to_end in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked_to_end, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    server.server_activate()  # only now does it listen: whoever gets through to it can also end it in order
    sys.stderr.write(f"{name}: pid {os.getpid()} listens at {'descriptor 3' if inherited else f'127.0.0.1:{port}'}\n")
    server.serve_forever(poll_interval=0.1)
    if not inherited:  # an inherited socket stays open elsewhere: there the next worker takes them
        server.finish()
