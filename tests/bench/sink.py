"""The worker of bodies.py: `GET /N` is answered with N bytes, a body of any length is counted and thrown away.

    tests/bench/sink.py PORT

Blocking sockets and one buffer, so that it is faster than any proxy that it is measured with.
"""

import contextlib
import re
import socket
import sys
import threading

_PIECE = 256 * 1024
_LENGTH = re.compile(rb"(?i)\ncontent-length: *(\d+)")
_TARGET = re.compile(rb"GET /(\d+)")


def answer(connection: socket.socket, buffer: bytearray) -> bool:
    """Serve one request. False when the connection has ended."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return False
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    left = int(length[1]) - len(body) if length else 0
    while left > 0:
        left -= connection.recv_into(buffer, min(left, _PIECE))
    wanted = _TARGET.match(head)
    size = int(wanted[1]) if wanted else 0
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    while size:
        size -= connection.send(memoryview(buffer)[: min(size, _PIECE)])
    return True


def serve(connection: socket.socket) -> None:
    """Serve one connection to its end."""
    buffer = bytearray(_PIECE)
    with connection, contextlib.suppress(ConnectionError):
        while answer(connection, buffer):
            pass


def main() -> None:
    """Serve every connection in a thread of its own."""
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
        while True:
            threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()


if __name__ == "__main__":
    main()
