"""How long workers take to begin: one in C, php-cgi beside its own bare start, and a pool that grows under load.

    python tests/bench/spawn.py [--rounds 5] [--starts 20] [--json]

- *c*: a slot that was empty is filled; fork to READY of a C worker, as the lab's events tell it. Aim: median 10 ms.
- *php*: the same for php-cgi, beside php-cgi started bare on a Unix socket until its first FastCGI answer. Aim: 1.3 x.
- *scale_up*: `scale` from 3 to 10 C workers under wrk's load, until all ten are READY. Aim: 200 ms.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from running import Running, need, reached

from lab import paths
from lab.core.states import WorkerState
from lab.engine.remote import RemoteLab
from lab.wire import fastcgi

C = paths.content("samples") / "search/c/search.c"


def manifest(folder: Path) -> dict[str, Any]:
    """An app in C and one in PHP, without workers yet."""
    script = folder / "index.php"
    script.write_text("<?php echo getmypid();")
    none = {"max_workers": 0}
    return {
        "apps": [
            {"name": "c", "route": "/c", "language": "c", "source": str(C), "pool": none, "concurrency": 16},
            {"name": "php", "route": "/php", "language": "php", "source": str(script), "pool": none},
        ]
    }


async def start_times(remote: RemoteLab, app: str, starts: int) -> list[float]:
    """Milliseconds from fork to READY, one worker at a time."""
    taken = []
    for _ in range(starts):
        cursor = (await remote.snapshot()).events_next
        await remote.scale(app, 1)
        forked = await reached(remote, app, WorkerState.STARTING, cursor)
        ready = await reached(remote, app, WorkerState.READY, cursor)
        taken.append((ready - forked) * 1000)
        await remote.scale(app, 0)
        await reached(remote, app, WorkerState.EXITED, cursor)
    return taken


def bare_php(folder: Path, starts: int) -> list[float]:
    """Milliseconds from fork to the first FastCGI answer of php-cgi alone."""
    taken = []
    for number in range(starts):
        path = folder / f"{number}.sock"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen(16)
            started = time.perf_counter()
            process = subprocess.Popen(
                ["php-cgi"], stdin=listening, env=os.environ | {"PHP_FCGI_MAX_REQUESTS": "0", "PHP_FCGI_CHILDREN": "0"}
            )
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(fastcgi.get_values(("FCGI_MPXS_CONNS",)))
            if not connection.recv(4096):
                raise SystemExit("php-cgi hung up without an answer")
            taken.append((time.perf_counter() - started) * 1000)
        process.kill()
        process.wait()
    return taken


async def scale_up(remote: RemoteLab) -> float:
    """Milliseconds from `scale c 10` until all ten are READY, from three, under load."""
    cursor = (await remote.snapshot()).events_next
    await remote.scale("c", 3)
    await reached(remote, "c", WorkerState.READY, cursor, 3)
    url = (await remote.snapshot()).listener + "/c?q=http"
    load = subprocess.Popen(["wrk", "-t1", "-c32", "-d20s", url], stdout=subprocess.DEVNULL)
    await asyncio.sleep(1)
    cursor, begin = (await remote.snapshot()).events_next, time.monotonic()
    await remote.scale("c", 10)
    ready = await reached(remote, "c", WorkerState.READY, cursor, 7)
    load.send_signal(signal.SIGINT)
    load.wait()
    cursor = (await remote.snapshot()).events_next
    await remote.scale("c", 0)
    await reached(remote, "c", WorkerState.EXITED, cursor, 10)
    return (ready - begin) * 1000


async def measure(rounds: int, starts: int) -> dict[str, list[float]]:
    """Medians of each round."""
    taken: dict[str, list[float]] = {"c_ms": [], "php_ms": [], "bare_php_ms": [], "php_ratio": [], "scale_up_ms": []}
    with tempfile.TemporaryDirectory(prefix="spawn-") as name:
        folder = Path(name)
        lab = Running(folder / "lab", manifest(folder))
        remote = await lab.ready()
        await remote.traffic(0)
        await start_times(remote, "c", 2)  # compiled and in the page cache
        for number in range(rounds):
            taken["c_ms"].append(statistics.median(await start_times(remote, "c", starts)))
            php = statistics.median(await start_times(remote, "php", starts))
            sockets = folder / str(number)
            sockets.mkdir()
            bare = statistics.median(bare_php(sockets, starts))
            taken["php_ms"].append(php)
            taken["bare_php_ms"].append(bare)
            taken["php_ratio"].append(php / bare)
            taken["scale_up_ms"].append(await scale_up(remote))
        await remote.close()
        lab.stop()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    need("wrk", "php-cgi", "cc")
    taken = asyncio.run(measure(asked.rounds, asked.starts))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    if asked.json:
        print(json.dumps({"rounds": asked.rounds, "medians": medians, "taken": taken}))
        return
    aims = {"c_ms": "10", "php_ratio": "1.3", "scale_up_ms": "200"}
    for name, values in taken.items():
        aim = f"aim: {aims[name]}" if name in aims else ""
        print(f"{name:12} {medians[name]:8.2f}  ({min(values):.2f} to {max(values):.2f})  {aim}")


if __name__ == "__main__":
    main()
