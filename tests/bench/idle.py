"""What an idle keep-alive client costs: resident memory of the proxy's process.

    tests/bench/idle.py [--json] [--tls] [--clients 10000] [--rounds 3]

Each client asks once, so that everything that a request makes exists, and then stays. The kernel's part (sockets,
descriptors) is not in it; that is the same for every proxy. With --tls most of it is OpenSSL's.
"""

import argparse
import contextlib
import resource
import socket
import ssl
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from bodies import head, held_kb
from proxy import HERE, running
from running import need, show

from lab.pool.sockdiag import free_port

_SPARE = 200
"""Descriptors for everything else."""


def room_for(clients: int) -> None:
    """Raise this process's limit of open files, which children inherit, or end with a clear word."""
    wanted = clients + _SPARE
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"Found a limit of {hard} open files, expected {wanted}: raise it with ulimit -n, as root.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def grown_kb(pid: int, port: int, clients: int, tls: bool) -> int:
    """How much the process grows by so many clients that asked once and stay."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with contextlib.ExitStack() as stack:

        def visit() -> None:
            connection = socket.create_connection(("127.0.0.1", port))
            connection = stack.enter_context(trusting.wrap_socket(connection) if tls else connection)
            connection.sendall(b"GET /0 HTTP/1.1\r\nHost: bench\r\n\r\n")
            head(connection)

        for _ in range(50):
            visit()
        before = held_kb(pid, "VmRSS")
        for _ in range(clients):
            visit()
        time.sleep(0.2)  # idle is what they are from now on
        return held_kb(pid, "VmRSS") - before


def measure(clients: int, tls: bool) -> int:
    """Bytes a client, in one round."""
    with contextlib.ExitStack() as stack:
        worker = free_port()
        stack.enter_context(running(1, [sys.executable, str(HERE / "sink.py"), str(worker)], worker))
        ours = free_port()
        argv = [sys.executable, str(HERE / "gateway_process.py"), *(["--tls"] if tls else []), str(ours), str(worker)]
        pid = stack.enter_context(running(0, argv, ours))
        return round(grown_kb(pid, ours, clients, tls) * 1024 / clients)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what an idle keep-alive client costs the built-in proxy.")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--tls", action="store_true", help="the listener speaks TLS")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    need("taskset")
    room_for(given.clients)
    found = [measure(given.clients, given.tls) for _ in range(given.rounds)]
    median = round(statistics.median(found))
    document = {"clients": given.clients, "tls": given.tls, "bytes_a_client": median, "rounds": found}
    show(document, as_json=given.json)


if __name__ == "__main__":
    main()
