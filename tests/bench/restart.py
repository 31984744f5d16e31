"""How long a service is away when its one worker is killed: the lab beside what one would use instead.

    python tests/bench/restart.py [--rounds 5] [--kills 20] [--only NAME ...] [--json]

One client asks without pause, each time on a new connection. The worker, known by its answer, gets SIGKILL from
outside; measured is the time until the next answer that comes from another process, and how many requests failed
until then. Each round starts every server anew, in turn. Medians of the rounds' medians, with the smallest and the
largest. All Python servers run the same handler (handler.py); php-fpm and the C sample say their PID, too.
"""

import argparse
import json
import os
import re
import signal
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import rivals

REQUEST = b"GET /?q=http HTTP/1.0\r\nHost: localhost\r\n\r\n"
PAUSE_S = 0.0002
"""Between two tries while nobody answers."""
SETTLE_S = 0.15
"""Between an answer and the next kill: a standby is refilled, a back-off would pass."""


def ask(port: int, timeout: float = 5.0) -> int | None:
    """The PID that answers, or None when the request failed."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as connection:
            connection.sendall(REQUEST)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
        return None
    found = re.search(rb'"pid": ?(\d+)', body) or re.match(rb"(\d+)", body)
    return int(found[1]) if found else None


def await_answer(rival: rivals.Rival) -> int:
    """The PID of the worker, as soon as it answers."""
    end = time.monotonic() + rivals.SECONDS_TO_START
    while (pid := ask(rival.port)) is None:
        if time.monotonic() > end:
            raise SystemExit(f"{rival.name} does not answer; see {rival.where}/log")
        time.sleep(0.02)
    return pid


def away(port: int, pid: int) -> tuple[float, int, int]:
    """Kill `pid`; milliseconds until somebody else answers, requests that failed until then, and who answers."""
    failed = 0
    started = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    while True:
        other = ask(port)
        if other is not None and other != pid:
            return (time.perf_counter() - started) * 1000, failed, other
        failed += other is None
        if time.perf_counter() - started > rivals.SECONDS_TO_START:
            raise SystemExit(f"nobody answers at port {port}")
        time.sleep(PAUSE_S)


def one_round(kind: type[rivals.Rival], where: Path, kills: int) -> dict[str, float]:
    """Start one server, kill its worker again and again, stop it."""
    rival = kind(where)
    try:
        rival.start()
        pid = await_answer(rival)
        times, lost = [], 0
        for _ in range(kills):
            time.sleep(SETTLE_S)
            pid = ask(rival.port) or pid
            ms, failed, pid = away(rival.port, pid)
            times.append(ms)
            lost += failed
    finally:
        rival.stop()
    return {
        "median_ms": statistics.median(times),
        "p95_ms": statistics.quantiles(times, n=20)[-1],
        "failed_per_kill": lost / kills,
    }


def measure(kinds: list[type[rivals.Rival]], rounds: int, kills: int) -> dict[str, Any]:
    """Every server in turn, `rounds` times."""
    taken: dict[str, list[dict[str, float]]] = {kind.name: [] for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="rivals-") as folder:
        for number in range(rounds):
            for place, kind in enumerate(kinds):
                taken[kind.name].append(one_round(kind, Path(folder) / f"{number}-{place}", kills))
    return {name: _summary(rounds_of) for name, rounds_of in taken.items()}


def _summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    medians = [one["median_ms"] for one in rounds]
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]} | {
        "lowest_ms": min(medians),
        "highest_ms": max(medians),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Asked to end."))  # an exception: no server is left running
    rivals.install()
    wanted = [kind for kind in rivals.ALL if not asked.only or kind.name in asked.only]
    missing = {kind.name: kind.lacks() for kind in wanted if kind.lacks()}
    results = measure([kind for kind in wanted if not kind.lacks()], asked.rounds, asked.kills)
    if asked.json:
        print(json.dumps({"rounds": asked.rounds, "kills": asked.kills, "servers": results, "missing": missing}))
        return
    print(f"{'SIGKILL to the next answer':26} {'median':>9} {'of rounds':>17} {'p95':>9} {'failed/kill':>12}")
    for name, one in sorted(results.items(), key=lambda item: item[1]["median_ms"]):
        spread = f"{one['lowest_ms']:.1f}-{one['highest_ms']:.1f}"
        print(
            f"{name:26} {one['median_ms']:6.1f} ms {spread:>17} {one['p95_ms']:6.1f} ms {one['failed_per_kill']:12.2f}"
        )
    for name, lacking in missing.items():
        print(f"{name:26} not measured: {lacking} is missing")


if __name__ == "__main__":
    main()
