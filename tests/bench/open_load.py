"""A load generator that does not wait: requests leave at their time, whatever the answers do.

    python tests/bench/open_load.py URL --rate 2000 --seconds 5

Latency runs from the time a request should have left (so that a stall is counted for everyone it holds up, see
"coordinated omission"), over 64 keep-alive connections, one request at a time on each. Prints one JSON document.
"""

import argparse
import asyncio
import json
import time
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import uvloop

from lab.core.histogram import Histogram

CONNECTIONS = 64
TICK_S = 0.002


class Connection(asyncio.Protocol):
    """One request at a time. Answers must carry Content-Length, as the samples' do."""

    def __init__(self, request: bytes, idle: "deque[Connection]", latencies: Histogram) -> None:
        self._request, self._idle, self._latencies = request, idle, latencies
        self._transport: asyncio.Transport | None = None
        self._due = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own types do not inherit asyncio's.
        self._idle.append(self)

    def send(self, due: float) -> None:
        assert self._transport is not None
        self._due = due
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) >= length:
            self._received = b""
            self._latencies.record(time.monotonic() - self._due)
            self._idle.append(self)


async def load(url: str, rate: float, seconds: float) -> dict[str, float | int | None]:
    """Send `rate` requests/s for `seconds`; milliseconds in the answer."""
    parts = urlsplit(url)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    idle: deque[Connection] = deque()
    latencies = Histogram()
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Connection(request, idle, latencies), parts.hostname, parts.port)
    begin = time.monotonic()
    sent, wanted = 0, int(rate * seconds)
    while sent < wanted and time.monotonic() < begin + 2 * seconds:
        now = time.monotonic()
        while sent < wanted and idle and begin + sent / rate <= now:
            idle.popleft().send(begin + sent / rate)
            sent += 1
        await asyncio.sleep(TICK_S)
    deadline = time.monotonic() + 5
    while latencies.total < sent and time.monotonic() < deadline:
        await asyncio.sleep(TICK_S)
    p50, p99 = (value and value * 1000 for value in latencies.quantiles(0.5, 0.99))
    return {"wanted": wanted, "sent": sent, "answered": latencies.total, "p50_ms": p50, "p99_ms": p99}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--seconds", type=float, default=5)
    asked = parser.parse_args()
    print(json.dumps(uvloop.run(load(asked.url, asked.rate, asked.seconds))))


if __name__ == "__main__":
    main()
