"""Why CGI was slow: the same program as one process a request and as a pool, behind the same proxy.

    python tests/bench/cgi.py [--rounds 5] [--seconds 4] [--json]

`search` in C and in Python, each twice in one lab: by contract `cgi` (fork, exec, answer, exit for each request) and by
its own pool of two workers. wrk with 8 connections; rounds are interleaved; medians with the lowest and the highest.
Also printed: the same C program by `cgi` behind nginx with fcgiwrap, where that is installed.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from rivals import FcgiWrap
from running import Running, need, wrk

from lab import paths

SAMPLES = paths.content("samples") / "search"
CONNECTIONS = 8
EXPECTED = {"c": 10, "python": 30}


def manifest() -> dict[str, Any]:
    """Four apps: two languages, each as CGI and as a pool."""
    sources = {"c": SAMPLES / "c/search.c", "python": SAMPLES / "python/search.py"}
    pool = {"max_workers": 2}
    apps = []
    for language, source in sources.items():
        common = {"language": language, "source": str(source), "pool": pool}
        apps.append({"name": f"{language}-pool", "route": f"/pool/{language}", "concurrency": CONNECTIONS, **common})
        apps.append({"name": f"{language}-cgi", "route": f"/cgi/{language}", "protocol": "cgi", **common})
    return {"apps": apps}


async def measure(rounds: int, seconds: float) -> dict[str, list[float]]:
    """Requests/s of each, round after round."""
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="cgi-") as folder:
        lab = Running(Path(folder, "lab"), manifest())
        remote = await lab.ready()
        await remote.traffic(0)
        base = (await remote.snapshot()).listener
        urls = {f"{kind} {name}": f"{base}/{kind}/{name}?q=http" for name in EXPECTED for kind in ("pool", "cgi")}
        other = None if FcgiWrap.lacks() else FcgiWrap(Path(folder, "wrap"), _program(Path(folder)))
        if other is not None:
            other.start()
            urls["cgi c, fcgiwrap behind nginx"] = f"http://127.0.0.1:{other.port}/?q=http"
        try:
            for number in range(rounds + 1):
                for name, url in urls.items():
                    result = wrk(url, seconds if number else 1, CONNECTIONS)
                    if result["failed"]:
                        print(f"{name}: {result['failed']:.0f} requests failed in this round", file=sys.stderr)
                    if number:  # the first round warms up
                        taken.setdefault(name, []).append(result["rps"])
        finally:
            if other is not None:
                other.stop()
        await remote.close()
        lab.stop()
    return taken


def _program(folder: Path) -> Path:
    built = folder / "search"
    subprocess.run([shutil.which("cc") or "cc", "-O2", "-o", built, SAMPLES / "c/search.c"], check=True)
    return built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    need("wrk", "cc")
    taken = asyncio.run(measure(asked.rounds, asked.seconds))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ratios = {name: medians[f"pool {name}"] / medians[f"cgi {name}"] for name in EXPECTED}
    if asked.json:
        print(json.dumps({"rounds": asked.rounds, "rps": taken, "medians": medians, "ratios": ratios}))
        return
    for name, values in taken.items():
        print(f"{name:32} {medians[name]:9.0f} requests/s  ({min(values):.0f} to {max(values):.0f})")
    for name, ratio in ratios.items():
        print(f"pool over CGI, {name:17} {ratio:9.1f} times    expected: more than {EXPECTED[name]}")


if __name__ == "__main__":
    main()
