"""The built-in pool backend: real processes of this machine, made and reaped by the lab's own fork server."""

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from lab.config.languages import Language
from lab.core.clock import Clock
from lab.core.errors import UnavailableError, UnknownTargetError
from lab.core.events import EventKind, EventRing
from lab.core.model import AppSpec, Contract, WorkerId
from lab.core.program import CgiProgram
from lab.core.spelling import counted
from lab.pool import forkserver, php, procfs, stacks
from lab.pool.build import Builder
from lab.pool.cgi_programs import CgiPool
from lab.pool.manager import PoolManager, PoolView, Routing, RunningProcess, Stack
from lab.pool.notices import Notices
from lab.pool.output import Capture, SlotOutput
from lab.pool.process import Lines, Process
from lab.pool.runner import Surroundings
from lab.pool.sockets import RuntimeFolder
from lab.pool.spawner import Order, Spawner
from lab.pool.supervisor import MOST_LOOKS, Supervisor

_TICK = 1.0
"""Seconds between two looks at CPU, memory and zombies, and between two questions to the policies."""
_TURNS = 10
"""The looks of one tick are spread over so many turns of the loop: 500 workers at once would hold it up for 20 ms."""
_REPORT_FD = 3
_REPORT = "{report_fd}"
_CLOSE_MARGIN = 2.0


class PythonBuiltinPool:
    """`PoolManager`: one supervisor per app, one fork server for all of them."""

    def __init__(
        self,
        *,
        routing: Routing,
        events: EventRing,
        clock: Clock,
        spawner: Spawner,
        languages: Mapping[str, Language],
        cache: Path,
        logs: Path,
    ) -> None:
        self._events = events
        self._spawner = spawner
        self._logs = logs
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="worker-logs")
        self._folder = RuntimeFolder()
        self._notices = Notices(self._folder)
        self._with = Surroundings(routing, events, clock, spawner, self._disk, self._folder, self._notices)
        self._builder = Builder(spawner, languages, cache)
        self._supervisors: dict[str, Supervisor] = {}
        self._leaving: dict[str, Supervisor] = {}
        """Pools of apps that were removed and still have processes."""
        self._programs: dict[str, CgiPool] = {}
        self._ending: list[CgiPool] = []
        self._outputs: dict[tuple[str, int], SlotOutput] = {}
        self._turn = 0
        self._unseen: list[int] = []
        """Children of the fork server that are still to be looked at in this round."""
        self._zombies_before: set[int] = set()
        self._zombies: set[int] = set()
        self._lasting_zombies = 0
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._spawner.attach(asyncio.get_running_loop(), self._on_replaced, self._on_orphans)
        self._tick()

    async def apply(self, apps: tuple[AppSpec, ...]) -> None:
        programs = {app.name: app for app in apps if self._builder.protocol(app) is Contract.CGI}
        self._apply_programs(programs)
        wanted = {app.name for app in apps} - programs.keys()
        self._let_go([name for name in self._supervisors if name not in wanted])
        for app in map(php.as_one_worker, (app for app in apps if app.name in wanted)):
            if app.name in self._leaving:  # its slots and their generations are known
                self._supervisors[app.name] = self._leaving.pop(app.name)
            elif app.name not in self._supervisors:
                self._supervisors[app.name] = Supervisor(app, self._with, self._builder, self._output, random.Random())
            self._supervisors[app.name].update(app)

    def observe(self) -> PoolView:
        apps = [supervisor.view() for supervisor in self._supervisors.values()]
        apps += [program.view() for program in self._programs.values()]
        return PoolView(apps=tuple(apps), zombies=self._lasting_zombies)

    def signal(self, worker: WorkerId, signal: int) -> int:
        supervisor = self._supervisors.get(worker.app)
        runner = supervisor.find(worker) if supervisor is not None else None
        if runner is None:
            raise UnknownTargetError(f"{worker} of generation {worker.generation} has no process any more.")
        return runner.signal(signal)

    def heal(self) -> int:
        return sum(supervisor.heal() for supervisor in self._supervisors.values())

    def output(self, app: str, slot: int) -> tuple[str, ...]:
        kept = self._outputs.get((app, slot))
        return kept.lines() if kept is not None else ()

    async def gone(self, app: str) -> None:
        pools: list[Supervisor | CgiPool] = [*self._leaving.values(), *self._ending]
        await asyncio.gather(*(pool.gone() for pool in pools if pool.spec.name == app))

    def reload(self, app: str) -> None:
        pools = self._supervisors | self._programs
        if app not in pools:
            raise UnknownTargetError(f"Found no pool of {app!r}; expected one of: {', '.join(pools)}.")
        pools[app].reload()

    def starved(self, app: str) -> None:
        if app in self._supervisors:  # its last requests may still wait when it was removed
            self._supervisors[app].starved()

    async def stack(self, worker: WorkerId) -> Stack:
        supervisor = self._supervisors.get(worker.app)
        runner = supervisor.find(worker) if supervisor is not None else None
        pid = runner.view().pid if runner is not None else None
        return await stacks.look(pid, self._spawner) if pid is not None else Stack()

    async def cgi(self, app: str, env: dict[str, str]) -> CgiProgram:
        if app not in self._programs:
            raise UnavailableError(f"{app} has no CGI program any more.")
        return await self._programs[app].run(env)

    async def run(
        self, name: str, argv: tuple[str, ...], env: dict[str, str], cwd: str | None, on_line: Callable[[str], None]
    ) -> RunningProcess:
        output = Capture(SlotOutput(self._logs / f"{Path(name).name}.process.log", self._disk))
        fds, report = {1: output.fd, 2: output.fd}, None
        if any(_REPORT in word for word in argv):
            ours, fds[_REPORT_FD] = os.pipe2(os.O_CLOEXEC)
            report = Lines(ours, on_line)
        command = tuple(word.replace(_REPORT, str(_REPORT_FD)) for word in argv)
        try:
            order = Order(argv=command, env=env, cwd=cwd, fds=fds)
            return await Process.start(self._spawner, order, report, output)
        finally:
            for fd in {*fds.values()}:
                os.close(fd)

    async def close(self) -> None:
        self._let_go(list(self._supervisors))
        self._apply_programs({})
        left: list[Supervisor | CgiPool] = [*self._leaving.values(), *self._ending]
        patience = max((_patience(supervisor.spec) for supervisor in left), default=0.0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(supervisor.gone() for supervisor in left)), patience)
        if self._ticker is not None:
            self._ticker.cancel()
        await self._spawner.close()
        self._notices.close()
        self._folder.close()
        await asyncio.to_thread(self._disk.shutdown)

    def abandon(self) -> None:
        self._spawner.abandon()

    # -- inside

    def _apply_programs(self, apps: Mapping[str, AppSpec]) -> None:
        self._ending = [pool for pool in self._ending if not pool.is_over]
        for name in self._programs.keys() - apps.keys():
            pool = self._programs.pop(name)
            pool.stop()
            self._ending.append(pool)
        for name, app in apps.items():
            if name not in self._programs:
                self._programs[name] = CgiPool(app, self._with, self._builder, self._output)
            self._programs[name].update(app)

    def _let_go(self, names: list[str]) -> None:
        self._leaving = {name: supervisor for name, supervisor in self._leaving.items() if not supervisor.is_over}
        for name in names:
            self._leaving[name] = self._supervisors.pop(name)
            self._leaving[name].stop()

    def _output(self, app: str, slot: int) -> SlotOutput:
        if (app, slot) not in self._outputs:
            self._outputs[app, slot] = SlotOutput(self._logs / f"{app}-{slot}.log", self._disk)
        return self._outputs[app, slot]

    def _tick(self) -> None:
        # The next one first: a defect in what follows ends this one alone.
        self._ticker = asyncio.get_running_loop().call_later(_TICK / _TURNS, self._tick)
        if self._turn % _TURNS == 0:
            for supervisor in self._supervisors.values():
                supervisor.tick()
        for supervisor in self._supervisors.values():
            supervisor.measure(self._turn, _TURNS)
        self._look_for_zombies()
        self._turn += 1

    def _look_for_zombies(self) -> None:
        """A child of the fork server that is a zombie at two looks in a row has been one for too long.

        A round of looks takes a second, or longer where there are many.
        """
        if self._turn % _TURNS == 0 and not self._unseen:
            self._lasting_zombies = len(self._zombies & self._zombies_before)
            self._zombies_before, self._zombies = self._zombies, set()
            self._unseen = forkserver.children(self._spawner.pid) if self._spawner.pid else []
        looked, self._unseen = self._unseen[:MOST_LOOKS], self._unseen[MOST_LOOKS:]
        self._zombies.update(pid for pid in looked if procfs.is_zombie(pid))

    def _on_replaced(self, text: str) -> None:
        self._events.emit(EventKind.FORKSERVER, text, pid=self._spawner.pid)

    def _on_orphans(self, count: int) -> None:
        what = counted(count, "orphaned process", "orphaned processes")
        self._events.emit(EventKind.NOTE, f"The fork server reaped {what} that workers left behind")


def _patience(spec: AppSpec) -> float:
    return spec.pool.drain_timeout + spec.pool.stop_timeout + _CLOSE_MARGIN


if TYPE_CHECKING:  # plug-ins are loaded by name, so nothing else would hold this one to its contract
    _: type[PoolManager] = PythonBuiltinPool
