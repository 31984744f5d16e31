"""PHP behind the lab and PHP behind nginx: php-cgi in a pool of the lab's, beside php-fpm with as many children.

    python tests/bench/php.py [--rounds 5] [--seconds 4] [--workers 2] [--json]

The same small script, wrk with 16 connections, rounds interleaved, medians with the lowest and the highest. nginx has
one worker process and is set up as its package has it. Aim: at least 0.8 times the requests/s.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from rivals import PhpFpm
from running import Running, need, wrk

SCRIPT = """<?php
header('Content-Type: application/json');
$words = explode(' ', 'the quick brown fox jumps over the lazy dog');
echo json_encode(['query' => $_GET['q'] ?? '', 'words' => count($words), 'pid' => getmypid()]);
"""
CONNECTIONS = 16
AIM = 0.8


def manifest(script: Path, workers: int) -> dict[str, Any]:
    """One app of so many php-cgi workers."""
    pool = {"max_workers": workers}
    return {"apps": [{"name": "php", "route": "/", "language": "php", "source": str(script), "pool": pool}]}


async def measure(rounds: int, seconds: float, workers: int) -> dict[str, list[float]]:
    """Requests/s of both, round after round."""
    taken: dict[str, list[float]] = {"cgilab": [], "nginx and php-fpm": []}
    with tempfile.TemporaryDirectory(prefix="php-") as name:
        folder = Path(name)
        script = folder / "index.php"
        script.write_text(SCRIPT)
        fpm = PhpFpm(folder / "fpm")
        fpm.children, fpm.script = workers, SCRIPT
        lab = Running(folder / "lab", manifest(script, workers))
        try:
            fpm.start()
            remote = await lab.ready()
            await remote.traffic(0)
            urls = {
                "cgilab": f"{(await remote.snapshot()).listener}/?q=http",
                "nginx and php-fpm": f"http://127.0.0.1:{fpm.port}/?q=http",
            }
            for number in range(rounds + 1):
                for server, url in urls.items():
                    result = wrk(url, seconds if number else 1, CONNECTIONS)
                    if result["failed"]:
                        print(f"{server}: {result['failed']:.0f} requests failed in this round", file=sys.stderr)
                    if number:  # the first round warms up
                        taken[server].append(result["rps"])
            await remote.close()
        finally:
            fpm.stop()
            lab.stop()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    need("wrk", "php-cgi", "nginx")
    if PhpFpm.lacks():
        raise SystemExit(f"Found no {PhpFpm.lacks()}; on Debian: apt-get install php-fpm nginx-light")
    taken = asyncio.run(measure(asked.rounds, asked.seconds, asked.workers))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ratio = medians["cgilab"] / medians["nginx and php-fpm"]
    if asked.json:
        print(json.dumps({"rounds": asked.rounds, "rps": taken, "medians": medians, "ratio": ratio}))
        return
    for name, values in taken.items():
        print(f"{name:20} {medians[name]:9.0f} requests/s  ({min(values):.0f} to {max(values):.0f})")
    print(f"ratio                {ratio:9.2f}  aim: {AIM}")


if __name__ == "__main__":
    main()
