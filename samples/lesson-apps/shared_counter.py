"""shared_counter: counts its requests where all workers can reach the count, in Redis. What counter gets wrong, right.

    GET /anything             {"count": 7, "pid": 4121, "language": "python"}

With any number of workers there is one count, and a worker that dies takes nothing of it along. REDIS in the
environment is where Redis listens: samples/with-redis.json starts it before the first worker. Without Redis a request
is answered 503, and the worker goes on: its health does not depend on what it merely needs, or a database that
restarts would have the lab restart every worker too.
"""

import os
import socket
from http import HTTPStatus

from worker import Worker, run


def increment(name: str) -> int:
    """Add 1 to a count in Redis, which does it one client at a time. Raises `OSError`."""
    host, _, port = os.environ.get("REDIS", "127.0.0.1:6390").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=1.0) as redis:
        redis.sendall(f"INCR {name}\r\n".encode())  # Redis takes a command as one line, too
        reply = redis.makefile("rb").readline()  # `:7`, or `-ERR` and why not
    if not reply.startswith(b":"):
        raise OSError(f"Redis said {reply.decode(errors='replace').strip()!r}, expected a number")
    return int(reply[1:])


class SharedCounter(Worker):
    def answer(self, asked: dict[str, str]) -> None:
        try:
            count = increment("requests")
        except OSError as error:
            return self.reply({"error": f"no count: {error}"}, HTTPStatus.SERVICE_UNAVAILABLE)
        return self.reply({"count": count})


if __name__ == "__main__":
    run(SharedCounter)
