"""What is left when the lab is killed, and what two hundred kills cost: measured on a real lab under load.

    python tests/bench/survival.py [--rounds 5] [--cycles 200] [--json]

- *gone*: from SIGKILL of `cgilab up` (under wrk's load) until none of its descendants is alive.
- *cycles*: workers are killed one after another, each after its successor is READY; zombies among the lab's descendants
  are counted all along, open descriptors and threads of lab and fork server before and after.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from running import Running, descendants, healing, held, need, supervisors


def lives(pid: int) -> bool:
    """A zombie is dead: when its whole family died, it waits for init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone_ms(folder: Path) -> float:
    """Milliseconds from SIGKILL of a loaded lab until its last descendant is gone; fails after 5 s."""
    lab = Running(folder)
    remote = await lab.ready()
    url = (await remote.snapshot()).listener + "/api/search?q=test"
    load = subprocess.Popen(["wrk", "-t1", "-c16", "-d5s", url], stdout=subprocess.DEVNULL)
    await asyncio.sleep(1)
    victims = list(descendants(lab.process.pid))
    started = time.monotonic()
    lab.process.kill()
    while any(lives(pid) for pid in victims):
        if time.monotonic() - started > 5:
            raise SystemExit(f"still alive after 5 s: {[pid for pid in victims if lives(pid)]}")
        time.sleep(0.0005)
    gone = (time.monotonic() - started) * 1000
    lab.process.wait()
    load.terminate()
    load.wait()
    return gone


async def cycles(folder: Path, count: int) -> dict[str, Any]:
    """Kill `count` workers one after another and look at what piles up."""
    lab = Running(folder)
    remote = await lab.ready()
    kept = supervisors(lab.process.pid)
    heal: list[float] = []
    zombies = 0
    before: dict[str, int] = {}
    for number in range(count + 10):
        if number == 10:  # the first ones warm caches and pools up
            before = held(kept)
        heal.append(await healing(remote, f"search/{number % 3}"))
        zombies += sum(state == "Z" for state in descendants(lab.process.pid).values())
    after = held(kept)
    await remote.close()
    lab.stop()
    return {
        "cycles": count,
        "zombies_seen": zombies,
        "before": before,
        "after": after,
        "heal_ms": statistics.median(heal),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    need("wrk")
    with tempfile.TemporaryDirectory() as folder:
        gone = [await gone_ms(Path(folder, str(number))) for number in range(args.rounds)]
        kills = await cycles(Path(folder, "cycles"), args.cycles)
    result = {"gone_ms": {"median": statistics.median(gone), "worst": max(gone), "rounds": args.rounds}, **kills}
    if args.json:
        print(json.dumps(result))
    else:
        print(f"SIGKILL of the lab under load: last descendant gone after {statistics.median(gone):.1f} ms (median)")
        print(f"  worst of {args.rounds}: {max(gone):.1f} ms")
        print(f"{args.cycles} kill cycles: {kills['zombies_seen']} zombies seen, median heal {kills['heal_ms']:.1f} ms")
        print(f"  before {kills['before']}, after {kills['after']}")


if __name__ == "__main__":
    asyncio.run(main())
