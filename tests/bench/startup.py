"""How long `cgilab` takes before it does anything: what a person waits for at every command.

    python tests/bench/startup.py [--rounds 9] [--json]

- *bare*: `python -c pass`, the floor that nothing goes below.
- *import*: `python -c "import lab.cli"`; `over_bare_ms` is its median less the bare one (wanted: under 100 ms).
- *version*: the installed script, `cgilab version` (wanted: under 250 ms).

Rounds are interleaved, so that a slow second of the machine is shared by all three. Milliseconds from spawn to exit,
modules being compiled already.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMANDS = {
    "bare": [sys.executable, "-c", "pass"],
    "import": [sys.executable, "-c", "import lab.cli"],
    "version": [str(Path(sys.executable).with_name("cgilab")), "version"],
}


def once(command: list[str]) -> float:
    """Milliseconds that one run takes."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    subprocess.run(command, env=env, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=30)
    return (time.perf_counter() - began) * 1000


def spread(times: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median_ms": round(statistics.median(times), 1),
        "min_ms": round(min(times), 1),
        "max_ms": round(max(times), 1),
    }


def measure(rounds: int) -> dict[str, Any]:
    """All three, `rounds` times each after one that compiles modules and warms the file cache."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, command in COMMANDS.items():
            taken = once(command)
            if turn:
                times[name].append(taken)
    figures: dict[str, Any] = {"rounds": rounds, **{name: spread(taken) for name, taken in times.items()}}
    figures["import"]["over_bare_ms"] = round(figures["import"]["median_ms"] - figures["bare"]["median_ms"], 1)
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.rounds)
    if options.json:
        print(json.dumps(figures))
        return
    for name in COMMANDS:
        one = figures[name]
        over = f"  ({one['over_bare_ms']} over bare)" if "over_bare_ms" in one else ""
        print(f"{name:<8} median {one['median_ms']} ms  {one['min_ms']} to {one['max_ms']}{over}")


if __name__ == "__main__":
    main()
