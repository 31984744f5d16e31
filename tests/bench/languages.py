"""How long a worker takes from its start until it is READY, in every language that is installed here.

    python tests/bench/languages.py [--rounds 9] [--json | --table]

The lab runs `search` of each language by the contract that the language prefers, one worker at a time: fork to READY,
as the lab's events tell it. A CGI program is never READY: of these it is one whole request. `--table` prints the rows
of the README.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parent))
from running import Running, reached

from lab import paths
from lab.config.languages import Language, detect, load
from lab.core.model import Contract
from lab.core.states import WorkerState
from lab.engine.remote import RemoteLab

SEARCH = paths.content("samples") / "search"


def source(language: Language) -> Path | None:
    """Its program; PHP-FPM runs PHP's."""
    folder = SEARCH / language.name.removesuffix("-fpm")
    return next((file for file in sorted(folder.glob("search.*")) if file.suffix in language.files), None)


def manifest(languages: dict[str, Language]) -> dict[str, Any]:
    """An app for each language, without workers yet."""
    return {
        "apps": [
            {
                "name": language.name,
                "route": f"/{language.name}",
                "language": language.name,
                "source": str(source(language)),
                "pool": {"max_workers": 1 if language.protocol(None) is Contract.CGI else 0, "start_timeout": 30},
            }
            for language in languages.values()
        ]
    }


async def start_time(remote: RemoteLab, app: str) -> float:
    """Milliseconds from fork to READY of one worker, which is stopped again."""
    cursor = (await remote.snapshot()).events_next
    await remote.scale(app, 1)
    forked = await reached(remote, app, WorkerState.STARTING, cursor)
    ready = await reached(remote, app, WorkerState.READY, cursor)
    await remote.scale(app, 0)
    await reached(remote, app, WorkerState.EXITED, cursor)
    return (ready - forked) * 1000


async def request_time(client: httpx.AsyncClient, app: str) -> float:
    """Milliseconds of one request, from its first byte to the last of its answer."""
    began = time.perf_counter()
    answer = await client.get(f"/{app}?q=zombie")
    taken = (time.perf_counter() - began) * 1000
    if answer.status_code != 200:
        raise SystemExit(f"{app} answered {answer.status_code}: {answer.text}")
    return taken


async def measure(languages: dict[str, Language], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round, after one that builds and warms the page cache."""
    taken: dict[str, list[float]] = {name: [] for name in languages}
    with tempfile.TemporaryDirectory(prefix="languages-") as folder:
        lab = Running(Path(folder) / "lab", manifest(languages))
        remote = await lab.ready()
        await remote.traffic(0)
        async with httpx.AsyncClient(base_url=(await remote.snapshot()).listener) as client:
            for number in range(rounds + 1):
                for name, language in languages.items():
                    cgi = language.protocol(None) is Contract.CGI
                    ms = await (request_time(client, name) if cgi else start_time(remote, name))
                    if number:
                        taken[name].append(ms)
        await remote.close()
        lab.stop()
    return taken


def row(language: Language, ms: float) -> str:
    """A line of the README's table."""
    contracts = " ".join(f"`{contract}`" for contract in language.start)
    return f"| {language.title} | {contracts} | {ms:.{0 if ms >= 10 else 1}f} ms | `{language.hint}` |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    installed = {name: one for name, one in load().items() if source(one) and detect(one).available}
    taken = asyncio.run(measure(installed, asked.rounds))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    if asked.json:
        print(json.dumps({"rounds": asked.rounds, "medians_ms": medians, "taken_ms": taken}))
    elif asked.table:
        print("\n".join(row(installed[name], ms) for name, ms in medians.items()))
    else:
        for name, values in taken.items():
            print(f"{name:12} {medians[name]:8.1f} ms  ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
