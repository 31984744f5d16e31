"""Long bodies through the built-in proxy and through nginx: throughput, CPU, and how much memory they take meanwhile.

    tests/bench/bodies.py [--json] [--size 1073741824] [--rounds 3]

One body at a time, *down* (a response) and *up* (a request), over a keep-alive connection; rounds are interleaved. The
proxy has core 0; client and worker share core 1. Memory is the growth of the process's peak (VmHWM, reset before each
body) over what it held before. nginx streams as we do: no request buffering, no temporary files.
"""

import argparse
import contextlib
import json
import re
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from proxy import HERE, contenders, running
from running import cpu_seconds, need

from lab.pool.sockdiag import free_port

_PIECE = 256 * 1024


def held_kb(pid: int, what: str) -> int:
    """VmRSS (now) or VmHWM (at most, since it was reset) of a process."""
    return int(re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def head(connection: socket.socket) -> bytes:
    """A response's head; returns what came of the body behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError(f"the end of the connection in the middle of a head: {data!r}")
        data += piece
    if not data.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(f"{data[:200]!r}, expected 200")
    return data.partition(b"\r\n\r\n")[2]


def down(connection: socket.socket, size: int, buffer: bytearray) -> None:
    """Take a response of so many bytes."""
    connection.sendall(b"GET /%d HTTP/1.1\r\nHost: bench\r\n\r\n" % size)
    left = size - len(head(connection))
    while left:
        got = connection.recv_into(buffer, min(left, _PIECE))
        if not got:
            raise ConnectionError(f"the end of the connection {left} bytes before the end of {size}")
        left -= got


def up(connection: socket.socket, size: int, buffer: bytearray) -> None:
    """Send a request of so many bytes, and wait for the answer."""
    connection.sendall(b"POST /0 HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % size)
    left = size
    while left:
        left -= connection.send(memoryview(buffer)[: min(left, _PIECE)])
    head(connection)


def measure(pid: int, port: int, size: int, way: str) -> dict[str, float]:
    """One body through one proxy."""
    buffer = bytearray(_PIECE)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(60)
        {"down": down, "up": up}[way](connection, 1024, buffer)
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        rss, cpu, began = held_kb(pid, "VmRSS"), cpu_seconds(pid), time.monotonic()
        {"down": down, "up": up}[way](connection, size, buffer)
        seconds = time.monotonic() - began
    return {
        "mb_s": size / seconds / 1e6,
        "cpu_s_per_gb": (cpu_seconds(pid) - cpu) / size * 1e9,
        "grown_kb": held_kb(pid, "VmHWM") - rss,
    }


def compare(size: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Every proxy's rounds, interleaved: by `proxy way`."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        worker = free_port()
        stack.enter_context(running(1, [sys.executable, str(HERE / "sink.py"), str(worker)], worker))
        proxies = {}
        for proxy, (argv, port) in contenders(Path(name), [worker], on=False).items():
            if proxy != "aiohttp":
                proxies[proxy] = stack.enter_context(running(0, argv, port)), port
        results: dict[str, list[dict[str, float]]] = {}
        for _ in range(rounds):
            for way in ("down", "up"):
                for proxy, (pid, port) in proxies.items():
                    try:
                        found = measure(pid, port, size, way)
                    except ConnectionError as error:
                        raise SystemExit(f"{proxy}, {way}: found {error}.") from error
                    results.setdefault(f"{proxy} {way}", []).append(found)
        return results


def summary(results: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """Medians, the largest growth, and the ratios to nginx."""
    found: dict[str, object] = {}
    for name, rounds in results.items():
        found[name] = {
            "mb_s": round(statistics.median(one["mb_s"] for one in rounds)),
            "cpu_s_per_gb": round(statistics.median(one["cpu_s_per_gb"] for one in rounds), 3),
            "grown_kb": max(one["grown_kb"] for one in rounds),
        }
    for way in ("down", "up"):
        if f"nginx {way}" in found:
            found[f"{way}_ratio_to_nginx"] = round(found[f"cgilab {way}"]["mb_s"] / found[f"nginx {way}"]["mb_s"], 3)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Relay long bodies through the built-in proxy and through nginx.")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of a body")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    need("taskset")
    document = summary(compare(given.size, given.rounds))
    if given.json:
        print(json.dumps(document))
        return
    for name, value in document.items():
        if isinstance(value, dict):
            print(f"{name:12} {value['mb_s']:6} MB/s  {value['cpu_s_per_gb']:.3f} s CPU a GB", end="")
            print(f"  memory grew by {value['grown_kb']} kB")
        else:
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
