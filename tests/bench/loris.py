"""A healthy client's latency while many others are as slow as they can be: medians and p99 with and without them.

    tests/bench/loris.py [--json] [--clients 1000] [--seconds 10] [--rounds 3]

Half of the slow clients send a head byte by byte and half a body, one byte a second each, and come again when they are
thrown out. The healthy one asks 100 times a second over one connection. The proxy has core 0, everybody else core 1.
There are 32 places at two workers: if bodies on their way held them, the healthy client would wait in the queue.
"""

import argparse
import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from bodies import head
from idle import room_for
from proxy import HERE, pinned, running
from running import need, show

from lab.pool.sockdiag import free_port

_HEAD = b"GET /0 HTTP/1.1\r\nHost: bench\r\nX-Slow: "
_BODY = b"POST /0 HTTP/1.1\r\nHost: bench\r\nContent-Length: 1000\r\n\r\n"
_PAUSE = 0.01
_BYTE_EVERY = 1.0


async def slow(port: int, begin: bytes) -> None:
    """One slow client, for ever."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begin)
            while not reader.at_eof() and not writer.transport.is_closing():
                await asyncio.sleep(_BYTE_EVERY)
                writer.write(b"x")
            writer.close()
        await asyncio.sleep(_BYTE_EVERY)


async def attack(port: int, clients: int) -> None:
    """All of them; says so when they are there."""
    attackers = [asyncio.create_task(slow(port, (_HEAD, _BODY)[number % 2])) for number in range(clients)]
    await asyncio.sleep(2 * _BYTE_EVERY)
    print("attacking", flush=True)
    await asyncio.gather(*attackers)


def latencies_ms(port: int, seconds: float) -> list[float]:
    """What the healthy client sees."""
    found = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(10)
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            connection.sendall(b"GET /0 HTTP/1.1\r\nHost: bench\r\n\r\n")
            head(connection)
            found.append((time.monotonic() - began) * 1000)
            time.sleep(_PAUSE)
    return found


def figures(found: list[float]) -> dict[str, float]:
    """Median, p99 and the worst."""
    cuts = statistics.quantiles(found, n=100)
    return {"p50_ms": round(cuts[49], 2), "p99_ms": round(cuts[98], 2), "worst_ms": round(max(found), 2)}


def measure(clients: int, seconds: float) -> dict[str, dict[str, float]]:
    """One round: the healthy client alone, then among the slow ones."""
    with contextlib.ExitStack() as stack:
        workers = [free_port() for _ in range(2)]
        for port in workers:
            stack.enter_context(running(1, [sys.executable, str(HERE / "sink.py"), str(port)], port))
        ours = free_port()
        argv = [sys.executable, str(HERE / "gateway_process.py"), str(ours), *map(str, workers)]
        stack.enter_context(running(0, argv, ours))
        alone = figures(latencies_ms(ours, seconds))
        command = pinned(1, [sys.executable, __file__, "--attack", str(ours), "--clients", str(clients)])
        attackers = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(attackers.kill)
        attackers.stdout.readline()
        return {"alone": alone, "among_slow_ones": figures(latencies_ms(ours, seconds))}


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The medians of all rounds."""
    return {
        part: {name: statistics.median(one[part][name] for one in rounds) for name in rounds[0][part]}
        for part in rounds[0]
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure a healthy client among slow ones.")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="length of each half")
    parser.add_argument("--attack", type=int, metavar="PORT", help="be the slow clients, for ever")
    given = parser.parse_args()
    room_for(given.clients)
    if given.attack:
        asyncio.run(attack(given.attack, given.clients))
        return
    need("taskset")
    document = summary([measure(given.clients, given.seconds) for _ in range(given.rounds)])
    show(document, as_json=given.json)


if __name__ == "__main__":
    main()
