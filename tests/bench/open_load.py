"""A load generator that does not wait: requests leave at their time, whatever the answers do.

    python tests/bench/open_load.py URL --rate 2000 --seconds 5

Latency runs from the time a request should have left (so that a stall is counted for everyone it holds up, see
"coordinated omission"), over 64 keep-alive connections, one request at a time on each. A connection that ends with a
request on it has failed that request, and is opened anew. Prints one JSON document.
"""

import argparse
import asyncio
import json
import time
from collections import Counter, deque
from typing import cast
from urllib.parse import urlsplit

import uvloop

from lab.core.histogram import Histogram

CONNECTIONS = 64
TICK_S = 0.002


class Tally:
    """What came of all requests."""

    def __init__(self) -> None:
        self.latencies = Histogram()
        self.statuses: Counter[str] = Counter()
        self.broken = 0
        """Requests on a connection that ended before their answer did."""
        self.reopen: asyncio.Event = asyncio.Event()
        self.lost = 0
        """Connections to open anew."""

    @property
    def ended(self) -> int:
        """Requests of which the end is known."""
        return self.statuses.total() + self.broken


class Connection(asyncio.Protocol):
    """One request at a time. Answers must carry Content-Length, as the samples' do."""

    def __init__(self, request: bytes, idle: "deque[Connection]", tally: Tally) -> None:
        self._request, self._idle, self._tally = request, idle, tally
        self._transport: asyncio.Transport | None = None
        self._due: float | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own types do not inherit asyncio's.
        self._idle.append(self)

    def send(self, due: float) -> None:
        """Send the request that should have left at `due`."""
        assert self._transport is not None
        self._due = due
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or self._due is None:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) >= length:
            self._received = b""
            self._tally.latencies.record(time.monotonic() - self._due)
            self._tally.statuses[head.split(b" ", 2)[1].decode()] += 1
            self._due = None
            if b"\nconnection: close" not in head.lower():
                self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._tally.broken += self._due is not None
        self._due = None
        if self in self._idle:
            self._idle.remove(self)
        self._tally.lost += 1
        self._tally.reopen.set()


async def load(url: str, rate: float, seconds: float) -> dict[str, object]:
    """Send `rate` requests/s for `seconds`; milliseconds in the answer."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    idle: deque[Connection] = deque()
    tally = Tally()
    loop = asyncio.get_running_loop()

    async def reconnect() -> None:
        while True:
            await tally.reopen.wait()
            tally.reopen.clear()
            while tally.lost:
                tally.lost -= 1
                await loop.create_connection(lambda: Connection(request, idle, tally), parts.hostname, parts.port)

    tally.lost = CONNECTIONS
    tally.reopen.set()
    opening = asyncio.create_task(reconnect())
    while len(idle) < CONNECTIONS:
        await asyncio.sleep(TICK_S)
        if opening.done():
            await opening
    begin = time.monotonic()
    sent, wanted = 0, int(rate * seconds)
    while sent < wanted and time.monotonic() < begin + 2 * seconds:
        now = time.monotonic()
        while sent < wanted and idle and begin + sent / rate <= now:
            idle.popleft().send(begin + sent / rate)
            sent += 1
        await asyncio.sleep(TICK_S)
    deadline = time.monotonic() + 5
    while tally.ended < sent and time.monotonic() < deadline:
        await asyncio.sleep(TICK_S)
    opening.cancel()
    answered = tally.latencies.total
    p50, p99 = (value and value * 1000 for value in tally.latencies.quantiles(0.5, 0.99))
    return {
        "wanted": wanted, "sent": sent, "answered": answered, "broken": tally.broken, "statuses": dict(tally.statuses),
        "p50_ms": p50, "p99_ms": p99,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--seconds", type=float, default=5)
    asked = parser.parse_args()
    print(json.dumps(uvloop.run(load(asked.url, asked.rate, asked.seconds))))


if __name__ == "__main__":
    main()
