"""What a proxy adds to each answer: latency at a fixed rate through it, beside asking the worker itself.

    tests/bench/latency.py [--json] [--rate 1000] [--seconds 5] [--rounds 5]

Requests leave at their time, whatever the answers do (open_load.py), to the same C worker: directly, through the
built-in proxy, through it with everything on by which it explains itself, and through nginx. One after the other in
each round; what is added is the difference within a round, so that what else the machine does hits everybody. The
generator sends 500 times a second what is due by then: its delay is in all figures, and in no difference.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from proxy import HERE, PATH, SEARCH, contenders, running

from lab.pool.sockdiag import free_port


def measure(port: int, rate: float, seconds: float) -> dict[str, float]:
    """One round against one port. Every request has to be answered, or the figures would flatter."""
    load = [sys.executable, str(HERE / "open_load.py"), f"http://127.0.0.1:{port}{PATH}"]
    command = [*load, "--rate", f"{rate:g}", "--seconds", f"{seconds:g}"]
    found = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds * 3 + 30).stdout
    )
    if found["answered"] != found["wanted"]:
        print(
            f"Of {found['wanted']} requests {found['answered']} were answered: too much for this machine.",
            file=sys.stderr,
        )
    return {"p50_ms": found["p50_ms"], "p99_ms": found["p99_ms"]}


def compare(rate: float, seconds: float, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Every way's rounds, interleaved."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        subprocess.run(["cc", "-O2", "-o", folder / "search", SEARCH], check=True)
        worker = free_port()
        stack.enter_context(running(1, [str(folder / "search"), str(worker)], worker))
        ports = {"direct": worker}
        for proxy, (argv, port) in contenders(folder, [worker], True).items():
            if proxy != "aiohttp":
                stack.enter_context(running(0, argv, port))
                ports[proxy] = port
        results: dict[str, list[dict[str, float]]] = {way: [] for way in ports}
        for port in ports.values():
            measure(port, rate, 1)
        for _ in range(rounds):
            for way, port in ports.items():
                results[way].append(measure(port, rate, seconds))
        return results


def summary(results: dict[str, list[dict[str, float]]], rate: float, rounds: int) -> dict[str, object]:
    """Medians, and what each way adds to asking directly, with its spread."""
    ways = {}
    for way, measured in results.items():
        figures: dict[str, object] = {}
        for key in ("p50_ms", "p99_ms"):
            added = [one[key] - alone[key] for one, alone in zip(measured, results["direct"], strict=True)]
            figures[key] = round(statistics.median(one[key] for one in measured), 3)
            figures[f"added_{key}"] = round(statistics.median(added), 3)
            figures[f"added_{key}_spread"] = [round(min(added), 3), round(max(added), 3)]
        ways[way] = figures
    return {"rate": rate, "rounds": rounds, "ways": ways}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a proxy adds to the latency of a C worker.")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--rate", type=float, default=1000, help="requests a second")
    parser.add_argument("--seconds", type=float, default=5, help="length of a round")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    document = summary(compare(given.rate, given.seconds, given.rounds), given.rate, given.rounds)
    if given.json:
        print(json.dumps(document))
        return
    for way, figures in document["ways"].items():
        print(f"{way:8} p50 {figures['p50_ms']:6.3f} ms  p99 {figures['p99_ms']:6.3f} ms", end="")
        for key in ("p50_ms", "p99_ms"):
            low, high = figures[f"added_{key}_spread"]
            print(f"   {key[:3]} {figures[f'added_{key}']:+.3f} ({low:+.3f} to {high:+.3f})", end="")
        print()


if __name__ == "__main__":
    main()
