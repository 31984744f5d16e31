"""The one handler that every server in restart.py runs: its PID, as text. A WSGI application and a program in one.

    python tests/bench/handler.py PORT      listens there
    python tests/bench/handler.py           with LISTEN_FDS=1: descriptor 3 listens already (sd_listen_fds(3))

As a program it accepts one connection at a time and answers it, as small as a server can be: what is measured is who
starts it again, not how it starts.
"""

import os
import select
import socket
import sys
from collections.abc import Callable, Iterable

Start = Callable[[str, list[tuple[str, str]]], object]


def application(environ: dict[str, object], start_response: Start) -> Iterable[bytes]:
    """WSGI (PEP 3333)."""
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def listening() -> socket.socket:
    """The socket that was inherited, or a new one at the port that was given."""
    if "LISTEN_FDS" in os.environ:
        return socket.socket(fileno=3)
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", int(sys.argv[1])))
    server.listen(64)
    return server


def main() -> None:
    """Answer whatever comes. It waits before `accept`: who is killed inside takes a connection along, unread."""
    with listening() as server:
        while select.select((server,), (), ()):
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                body = str(os.getpid()).encode()
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n"
                connection.sendall(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))


if __name__ == "__main__":
    main()
