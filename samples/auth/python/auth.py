"""auth: logs people in. The short way to write a worker: the standard library's HTTP server, a thread a connection.

    python auth.py PORT                       (or PORT in the environment)
    GET  /health                              200 as soon as it listens
    GET  /api/auth                            {"service": "auth", "pid": 4131, "language": "python"}
    POST /api/auth/login                      {"user": "ada", "password": "lovelace"} -> {"token": "...", ...}
    GET  /api/auth/verify                     with `Authorization: Bearer TOKEN` -> {"user": "ada", ...}, else 401

A token is signed, not stored: any worker verifies what any other has issued, if they share AUTH_SECRET, and nothing is
lost when one of them dies. Checking a password is slow on purpose (PBKDF2); Python lets other threads run meanwhile, so
a worker can honestly answer a few requests at a time. After SIGTERM it finishes what it has begun and exits with 0.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

SECRET = os.environ.get("AUTH_SECRET", "known to everybody who reads this file").encode()
EXPIRES_IN = 3600
"""Seconds for which a token is good."""
BODY = 4096
"""The longest request body, in bytes."""
ROUNDS = 20_000
"""About 10 ms of work for each guess at a password. A real service takes 600,000 rounds."""


def digest(user: str, password: str) -> bytes:
    """What is kept instead of a password. The user's name is the salt: equal passwords do not look equal."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), user.encode(), ROUNDS)


PEOPLE = {  # ada's password is lovelace, grace's is hopper
    "ada": "a4296835574ddd7b15b9b0da142566a50f293d1ebad5a6e98c69cf109f06e8ba",
    "grace": "d4a587ee6424ef872c2647f6defab4d0a1607222bf7209e9a90869f27b3cbb6d",
}


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sign(payload: bytes) -> bytes:
    return hmac.digest(SECRET, payload, "sha256")


def issue(user: str, now: float) -> str:
    """A token: who, until when, and a signature over both that only a holder of the secret can make."""
    payload = json.dumps({"user": user, "expires": int(now) + EXPIRES_IN}).encode()
    return f"{encode(payload)}.{encode(sign(payload))}"


def verify(token: str, now: float) -> str | None:
    """The user that the token speaks for; None when it is forged, damaged or out of date."""
    try:
        payload, signature = (decode(part) for part in token.split("."))
    except ValueError:
        return None
    if not hmac.compare_digest(signature, sign(payload)):
        return None
    claims = json.loads(payload)
    return claims["user"] if claims["expires"] > now else None


class RefusedError(Exception):
    """The request is answered with `status` and this text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """One client's connection, on a thread of its own."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # a head is always sent, even to one who sent no version
    wbufsize = -1  # head and body leave in one write
    disable_nagle_algorithm = True
    timeout = 60.0  # seconds that a silent client keeps its thread

    def answer(self) -> None:
        """Read the body whatever the path, or its bytes would be taken for the next request."""
        try:
            body = self.read_body()
            self.reply(HTTPStatus.OK, self.document(self.path.partition("?")[0].rstrip("/"), body))
        except RefusedError as refused:
            self.reply(refused.status, {"error": str(refused)})

    def document(self, path: str, body: bytes) -> dict[str, object]:
        """What there is at `path`."""
        match path, self.command:
            case "/health", "GET" | "HEAD":
                return {"status": "ok"}
            case "/api/auth", "GET" | "HEAD":
                return {"service": "auth"}
            case "/api/auth/login", "POST":
                return log_in(body)
            case "/api/auth/verify", "GET" | "HEAD":
                return speak_for(self.headers.get("Authorization", ""))
            case "/api/auth/login", _:
                raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "expected POST: a password in an address gets logged")
            case _:
                raise RefusedError(HTTPStatus.NOT_FOUND, "expected /api/auth, /api/auth/login or /api/auth/verify")

    def read_body(self) -> bytes:
        """The request's body. Refusing it ends the connection: nobody knows where the next request begins."""
        lengths = self.headers.get_all("Content-Length", ["0"])
        wrong = None
        if "Transfer-Encoding" in self.headers:
            wrong = RefusedError(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length; chunked bodies are not read")
        elif len(lengths) != 1 or not re.fullmatch("[0-9]{1,18}", lengths[0]):
            wrong = RefusedError(HTTPStatus.BAD_REQUEST, "expected one Content-Length, of digits only")
        elif int(lengths[0]) > BODY:
            wrong = RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected a body of at most {BODY} bytes")
        if wrong:
            self.close_connection = True
            raise wrong
        return self.rfile.read(int(lengths[0]))

    def reply(self, status: int, document: dict[str, object]) -> None:
        """Send `document` and who made it."""
        body = json.dumps({**document, "pid": os.getpid(), "language": "python"}).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class says of a request that it cannot read, in JSON like everything else."""
        self.close_connection = True
        self.reply(code, {"error": message or HTTPStatus(code).phrase})

    def handle_expect_100(self) -> bool:
        """Send `100 Continue` now: it must not wait in the buffer for the body that waits for it."""
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def log_message(self, *_: object) -> None:
        """Say nothing: the proxy counts requests."""


for method in ("GET", "POST", "HEAD"):  # the base class looks for do_GET and so on
    setattr(Handler, f"do_{method}", Handler.answer)


def log_in(body: bytes) -> dict[str, object]:
    """A token for the user and password in `body`."""
    try:
        match json.loads(body):
            case {"user": str(user), "password": str(password)}:
                given = digest(user, password)
            case _:
                raise ValueError
    except ValueError:
        raise RefusedError(HTTPStatus.BAD_REQUEST, 'expected {"user": "...", "password": "..."}') from None
    if not hmac.compare_digest(given.hex(), PEOPLE.get(user, "")):
        raise RefusedError(HTTPStatus.UNAUTHORIZED, "no such user, or another password")
    return {"token": issue(user, time.time()), "expires_in": EXPIRES_IN}


def speak_for(authorization: str) -> dict[str, object]:
    """The user that a field `Authorization: Bearer TOKEN` speaks for."""
    scheme, _, token = authorization.partition(" ")
    user = verify(token.strip(), time.time()) if scheme.lower() == "bearer" else None
    if user is None:
        raise RefusedError(HTTPStatus.UNAUTHORIZED, "expected Authorization: Bearer and a token from /api/auth/login")
    return {"user": user}


class Server(ThreadingHTTPServer):
    """Knows its connections, so that it can end: an idle one would hold its thread for ever."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    def server_bind(self) -> None:
        """Bind, and leave out the base class's question to DNS for this machine's name."""
        TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection."""
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket) -> None:
        """A connection has ended."""
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        """A client that went away is no error; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            traceback.print_exc()

    def finish(self) -> None:
        """Listen no more, let every thread read what has come, then the end of its stream, and wait for all of them."""
        self.socket.close()
        for connection in self.connections.copy():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        self.server_close()


def main() -> None:
    text = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", "")
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        sys.exit(f"auth: found port {text!r}, expected 1 to 65535; usage: auth.py PORT")
    server = Server(int(text))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    sys.stderr.write(f"auth: pid {os.getpid()} listens on 127.0.0.1:{text}\n")
    server.serve_forever(poll_interval=0.1)
    server.finish()


if __name__ == "__main__":
    main()
