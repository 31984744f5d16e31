"""A lab under load that is treated badly at random, while what must hold at every instant is looked at all along.

    python tests/bench/soak.py [--seconds 600] [--seed N] [--tls] [--json]

First calm (workers come, go and are reloaded, settings change, and no request may fail), then rough (kills through the
lab and from outside, frozen workers, programs that do not start, the fork server killed). Clients of every kind come
and go all along (visitors.py): HTTP, CGI, FastCGI where there is PHP, and WebSockets; with --tls all of it through TLS,
and some who begin a handshake and leave, or know nothing of TLS. Looked at: the bounds of each
pool, that only READY workers are routed to, that no zombie stays, that each request is counted once, that a stop that
was asked for never respawns and ends within its grace, that each frozen worker is noticed, that nobody waits for ever.
At the end the lab is brought back to where it began: nothing is in flight, and it may hold no descriptor, thread or
process more than then, and not much more memory. Ends with status 1 and what was found.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from visitors import Visitors

from lab import bootstrap, paths
from lab.config import languages
from lab.core.errors import LabError, NoLabError, UnknownTargetError
from lab.core.events import Event, EventKind
from lab.core.model import AppSpec, Contract, ListenerSpec, Liveness, PoolSettings, Timeouts, Tls
from lab.core.snapshot import LabSnapshot
from lab.core.states import Cause, WorkerState
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab
from lab.pool import forkserver, procfs

_S = WorkerState
EXECUTORS = 2 * min(32, (os.cpu_count() or 1) + 4)
"""Threads that the executors of two event loops may still start: they do so one by one, as they need them."""
CLIENTS = 8
CALM = 0.25
"""The part of the time in which nothing is broken."""
SLACK = 8.0
"""Seconds that a busy machine may add to any delay."""
DELIBERATE = frozenset({Cause.SCALED_DOWN, Cause.STOPPED, Cause.RELOADED})
FRAGILE = """
import os, runpy
if os.environ.get("BROKEN"):
    raise SystemExit(3)
runpy.run_path({!r}, run_name="__main__")
"""
COUNT = """
import os, sys
body = sys.stdin.buffer.read(int(os.environ.get("CONTENT_LENGTH") or 0))
print("Content-Type: text/plain\\n\\n%d" % len(body), end="")
"""
COUNT_IN_PHP = '<?php header("Content-Type: text/plain"); echo strlen(file_get_contents("php://input"));'
MEMORY = 32 * 2**20
"""Bytes by which the lab may grow between the end of the calm and the end: logs, histograms and caches are bounded."""
POOL = PoolSettings(
    max_workers=3, start_timeout=10, stop_timeout=1, drain_timeout=2, backoff_initial=0.02, backoff_max=0.5
)
TIMEOUTS = Timeouts(upstream_idle=0.5, connect=20, queue=30)  # a busy machine is no fault
LIVENESS = Liveness(interval=0.2, timeout=0.3, hang_timeout=1.0, replace_after=2.0)


def apps(folder: Path) -> tuple[AppSpec, ...]:
    """`search` in C, or in Python where nothing compiles, a Python one that its environment can break, a WebSocket's
    echo, and programs that count what they are sent: by CGI, and by FastCGI where there is PHP."""
    samples, known = paths.content("samples"), languages.load()
    fragile, count, php = folder / "fragile.py", folder / "count.py", folder / "count.php"
    fragile.write_text(FRAGILE.format(str(samples / "search" / "python" / "search.py")))
    count.write_text(COUNT)
    php.write_text(COUNT_IN_PHP)
    search = ("c", "c/search.c") if languages.detect(known["c"]).available else ("python", "python/search.py")
    found = [
        AppSpec(name="search", route="/search", language=search[0], source=str(samples / "search" / search[1])),
        AppSpec(name="fragile", route="/fragile", language="python", source=str(fragile)),
        AppSpec(
            name="echo", route="/echo", language="python", source=str(samples / "websocket" / "echo.py"), concurrency=20
        ),
        AppSpec(
            name="count", route="/count", language="python", source=str(count), protocol=Contract.CGI, concurrency=4
        ),
    ]
    if languages.detect(known["php"]).available:
        found.append(AppSpec(name="php", route="/php", language="php", source=str(php), protocol=Contract.FASTCGI))
    return tuple(
        msgspec.structs.replace(app, pool=POOL, liveness=LIVENESS, timeouts=TIMEOUTS, queue_length=10_000)
        for app in found
    )


class Witness:
    """Looks at snapshots and events, and writes down what may not be."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.looks = 0
        self.kinds: Counter[str] = Counter()
        self._asked_to_end: dict[tuple[str, int, int], Event] = {}
        self._frozen: dict[tuple[str, int, int], Event] = {}
        self._over: set[tuple[str, int, int]] = set()
        self._ready: set[tuple[str, int, int]] = set()

    def look(self, snapshot: LabSnapshot) -> None:
        """What holds at every instant."""
        self.looks += 1
        for name, holds in msgspec.structs.asdict(snapshot.invariants).items():
            self._demand(holds, f"{name} does not hold: {snapshot}")
        for totals in (snapshot.totals, snapshot.own.totals):
            ended = totals.answered + totals.failed + totals.shed + totals.abandoned
            self._demand(totals.accepted == ended + totals.in_flight, f"not every request is in one place: {totals}")
        for app in snapshot.apps:
            for worker in app.workers:
                fine = not worker.routed or worker.state is _S.READY
                self._demand(fine, f"{app.name}/{worker.slot} is {worker.state} and routed to")
        for event in (*self._asked_to_end.values(), *self._frozen.values()):
            late = snapshot.at - event.at > SLACK + POOL.stop_timeout
            self._demand(not late, f"nothing followed within {SLACK + POOL.stop_timeout:g} s: {event.text}")

    def hear(self, event: Event) -> None:
        """What holds from one event to the next."""
        self.kinds[event.kind] += 1
        self._demand("defect" not in event.text, event.text)
        if event.app is None or event.slot is None or event.generation is None:
            return
        who = (event.app, event.slot, event.generation)
        if event.kind is EventKind.STOPPED and who in self._ready:
            self._frozen[who] = event
        elif event.kind is EventKind.CONTINUED:
            self._frozen.pop(who, None)
        elif event.kind is EventKind.STATE:
            self._hear_state(who, event)

    def _hear_state(self, who: tuple[str, int, int], event: Event) -> None:
        self._frozen.pop(who, None)
        self._ready.discard(who)
        if event.state is _S.READY:
            self._ready.add(who)
        elif event.state is _S.STOPPING:
            self._asked_to_end[who] = event
        elif event.state is _S.EXITED:
            self._asked_to_end.pop(who, None)
            if event.cause in DELIBERATE:
                self._over.add(who)
        elif event.state in (_S.BACKOFF, _S.FAILED):
            self._demand(who not in self._over, f"a stop that was asked for counts as a death: {event.text}")

    def _demand(self, holds: bool, otherwise: str) -> None:
        if not holds and otherwise not in self.found:
            self.found.append(otherwise)


class Soak:
    """One lab and everything that is done to it."""

    def __init__(self, lab: LocalLab, before: LabSpec, rng: random.Random) -> None:
        self.lab = lab
        self.before = before
        self.witness = Witness()
        self.done: Counter[str] = Counter()
        self._rng = rng
        self._pooled = [app for app in before.apps if app.protocol is not Contract.CGI]
        self._calm: list[Callable[[], Awaitable[Any]]] = [
            self.scale, self.reload, self.request, self.traffic, self.set, self.set_proxy,
        ]  # fmt: skip
        self._rough: list[Callable[[], Awaitable[Any]]] = [
            *self._calm, self.kill, self.kill, self.kill_outside, self.terminate, self.freeze, self.freeze, self.thaw,
            self.break_program, self.heal, self.kill_fork_server, self.protect,
        ]  # fmt: skip

    async def act(self, seconds: float, rough: bool) -> None:
        """Do one thing after another."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            deed = self._rng.choice(self._rough if rough else self._calm)
            self.done[deed.__name__] += 1
            try:
                await deed()
            except (UnknownTargetError, ProcessLookupError):  # it ended in between
                self.done["too late"] += 1
            await asyncio.sleep(self._rng.uniform(0, 0.15))

    async def watch(self) -> None:
        """Look at everything that happens."""
        cursor = 1
        while True:
            batch = await self.lab.events(cursor, wait=0.05)
            cursor = batch.next
            if batch.missed:
                raise SystemExit(f"{batch.missed} events were missed")
            for event in batch.events:
                self.witness.hear(event)
            if not batch.events:
                self.witness.look(await self.lab.snapshot())

    async def restore(self) -> None:
        """Bring the lab back to its first state, and wait until it is there."""
        await self.lab.apply(self.before)
        async with asyncio.timeout(60):
            while not _as_wanted(await self.lab.snapshot(), POOL.max_workers):
                await self.lab.heal()
                await asyncio.sleep(0.2)

    # -- deeds

    async def scale(self) -> None:
        await self.lab.scale(self._app().name, self._rng.randint(1, 6))

    async def reload(self) -> None:
        await self._change(env={"SOAK": str(self._rng.random())})

    async def set(self) -> None:
        choices = ("round_robin", "least_connections", "two_choices", "peak_ewma", "random_choice")
        changes = {"selection": self._rng.choice(choices), "slow_start": self._rng.choice(("0", "0.2"))}
        await self.lab.set(self._app().name, changes)

    async def protect(self) -> None:
        guards = ("retries.on", ("connect", "connect,reset")), ("breaker.failures", ("0", "5"))
        more = ("outliers.consecutive_errors", ("0", "3")), ("health_check.interval", ("0", "0.3"))
        changes = {key: self._rng.choice(values) for key, values in (*guards, *more)}
        await self.lab.set(self._app().name, changes)

    async def set_proxy(self) -> None:
        changes = {"trace_sample": self._rng.choice(("0", "10")), "access_log": self._rng.choice(("off", "json"))}
        await self.lab.set("proxy", changes)

    async def break_program(self) -> None:
        await self._change(env={"BROKEN": "1"})

    async def request(self) -> None:
        try:
            await self.lab.request(self._app().name)
        except NoLabError:  # its worker was killed in the middle of the answer
            self.done["broken off"] += 1

    async def traffic(self) -> None:
        await self.lab.traffic(self._rng.uniform(0, 100))

    async def kill(self) -> None:
        await self.lab.signal("random")

    async def terminate(self) -> None:
        await self.lab.signal("random", "SIGTERM")

    async def freeze(self) -> None:
        await self.lab.signal("random", "SIGSTOP")

    async def thaw(self) -> None:
        await self.lab.signal("random", "SIGCONT")

    async def heal(self) -> None:
        await self.lab.heal()

    async def kill_outside(self) -> None:
        snapshot = await self.lab.snapshot()
        pids = [worker.pid for app in snapshot.apps for worker in app.workers if worker.pid is not None]
        # A PID may have been reused since; one that leads a session under the fork server is a worker.
        mine = [pid for server in fork_servers() for pid in forkserver.children(server) if pid in pids]
        if mine:
            os.kill(self._rng.choice(mine), signal.SIGKILL)

    async def kill_fork_server(self) -> None:
        for pid in fork_servers():
            os.kill(pid, signal.SIGKILL)

    def _app(self) -> AppSpec:
        return self._rng.choice(self._pooled)

    async def _change(self, **fields: Any) -> None:
        spec, chosen = await self.lab.spec(), self._app().name
        changed = tuple(msgspec.structs.replace(app, **fields) if app.name == chosen else app for app in spec.apps)
        await self.lab.apply(msgspec.structs.replace(spec, apps=changed))


def fork_servers() -> list[int]:
    """The fork servers of this process."""
    found = []
    for pid in forkserver.children(os.getpid()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended just now
            if forkserver.__file__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def held() -> dict[str, int]:
    """What this process and its fork server hold now."""
    servers = fork_servers()
    children = [pid for server in servers for pid in forkserver.children(server)]
    stats = [procfs.stat(pid) for pid in children]
    kept = {"fork servers": len(servers), "children": len(children)}
    kept["zombies"] = sum(stat is not None and stat.state == "Z" for stat in stats)
    for what, folder in (("descriptors", "fd"), ("threads", "task")):
        kept[what] = sum(len(list(Path(f"/proc/{pid}/{folder}").iterdir())) for pid in (os.getpid(), *servers))
    return kept


def open_files() -> Counter[str]:
    """What the descriptors of this process lead to, without numbers."""
    found: Counter[str] = Counter()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[re.sub(r"[0-9]+", "*", str(link.readlink()))] += 1
    return found


def _as_wanted(snapshot: LabSnapshot, workers: int) -> bool:
    pools = [app for app in snapshot.apps if app.protocol != Contract.CGI]
    return all([worker.routed for worker in app.workers] == [True] * workers for app in pools)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def calmed(lab: LocalLab) -> list[str]:
    """What is still going on 15 s after all is well again."""
    for _ in range(30):
        totals = (await lab.snapshot()).totals
        if not totals.in_flight and not totals.tunnels:
            return []
        await asyncio.sleep(0.5)
    return [f"something is in flight for ever: {totals}"]


async def settled(before: dict[str, int]) -> dict[str, int]:
    """What is held as soon as it is no more than `before`, or after 15 s: idle connections are closed after a while."""
    for _ in range(30):
        now = held()
        if all(now[what] <= before[what] for what in now):
            break
        await asyncio.sleep(0.5)
    return now


async def soak(seconds: float, seed: int, folder: Path, tls: bool = False) -> dict[str, Any]:
    """Run one lab for this long; returns what was done and found."""
    listener = ListenerSpec(port=0, tls=Tls.SELF_SIGNED if tls else Tls.OFF)
    spec = LabSpec(name="soak", listener=listener, apps=apps(folder), own_rate=0)
    lab = bootstrap.local_lab(spec, control=folder / "lab.sock")
    await asyncio.to_thread(lab.start)
    soak = Soak(lab, await lab.spec(), random.Random(seed))
    await soak.restore()
    await lab.request("count")  # the first run opens the pipe for what all of them write to stderr
    await asyncio.sleep(2 * TIMEOUTS.upstream_idle)
    before, files = held(), open_files()
    before["threads"] += EXECUTORS
    watching = asyncio.create_task(soak.watch())
    plain = [app.route for app in soak.before.apps if app.name in ("search", "fragile")]
    counting = [app.route for app in soak.before.apps if app.name in ("count", "php")]
    trust = ssl.create_default_context(cafile=(await lab.snapshot()).certificate) if tls else None
    visitors = Visitors(soak.before.listener.port, random.Random(seed), plain, counting, "/echo", trust)
    clients = [asyncio.create_task(visitors.come_and_go()) for _ in range(CLIENTS)]
    await soak.act(seconds * CALM, rough=False)
    surprises = visitors.surprises.copy()
    memory = resident()
    await soak.act(seconds * (1 - CALM), rough=True)
    for client in clients:
        client.cancel()
    ended = await asyncio.gather(*clients, return_exceptions=True)
    await soak.restore()  # whoever hung up behind a request that waits for a broken app is answered now
    left = await calmed(lab)
    after = await settled(before)
    more = open_files() - files
    if watching.done():
        await watching
    watching.cancel()
    await lab.close()
    grown = resident() - memory
    found = soak.witness.found + left + visitors.forgotten
    found += [f"a client broke: {error!r}" for error in ended if not isinstance(error, asyncio.CancelledError)]
    if surprises:
        found.append(f"requests failed while nothing was broken: {surprises}")
    if grown > MEMORY:
        found.append(
            f"the lab has grown by {grown / 2**20:.0f} MiB since the calm, expected {MEMORY / 2**20:.0f} at most"
        )
    found += [f"{before[what]} {what} before and {after[what]} after" for what in after if after[what] > before[what]]
    if after["descriptors"] > before["descriptors"]:
        found.append(f"descriptors that were not there before: {dict(more)}")
    children = forkserver.children(os.getpid())
    if children:
        found.append(f"processes were left: {children}")
    found += [defects.read_text() for defects in folder.rglob("defects.log")]
    return {
        "seconds": seconds,
        "seed": seed,
        "tls": tls,
        "looks": soak.witness.looks,
        "deeds": dict(soak.done),
        "answers": dict(visitors.statuses),
        "events": dict(soak.witness.kinds),
        "before": before,
        "after": after,
        "grown": grown,
        "found": found,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--tls", action="store_true", help="the listener speaks TLS")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["XDG_STATE_HOME"] = folder
        try:
            result = asyncio.run(soak(args.seconds, args.seed, Path(folder), args.tls))
        except LabError as error:
            raise SystemExit(f"seed {args.seed}: {error}") from error
    if args.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            if name != "found":
                print(f"{name:8}  {value}")
        print(*(result["found"] or ["Everything held."]), sep="\n")
    return 1 if result["found"] else 0


if __name__ == "__main__":
    sys.exit(main())
