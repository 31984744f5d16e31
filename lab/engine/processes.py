"""Processes beside the pool, such as load runs: started through the pool backend, told in events, bounded in time."""

import asyncio
import contextlib
import signal
from dataclasses import dataclass

from lab.core.errors import NotPossibleError, UnknownTargetError
from lab.core.events import EventKind, EventRing
from lab.engine.lab import ProcessSpec
from lab.pool.manager import PoolManager, RunningProcess


@dataclass(frozen=True, slots=True)
class _Entry:
    spec: ProcessSpec
    process: RunningProcess
    watcher: asyncio.Task[None]


class Processes:
    """All processes that run beside the pool, by name."""

    def __init__(self, pool: PoolManager, events: EventRing) -> None:
        self._pool = pool
        self._events = events
        self._entries: dict[str, _Entry] = {}
        self._starting: set[str] = set()
        self._stopping: set[asyncio.Task[None]] = set()

    async def start(self, spec: ProcessSpec) -> int:
        """Start `spec` and return its PID. A name that is in use raises `NotPossibleError`."""
        if spec.name in self._entries or spec.name in self._starting:
            raise NotPossibleError(
                f"A process called {spec.name!r} already runs.", "Stop it first, or use another name."
            )
        stop_signal(spec)
        self._starting.add(spec.name)
        try:
            process = await self._pool.run(spec.argv, spec.env, spec.cwd, lambda line: self._report(spec.name, line))
        finally:
            self._starting.discard(spec.name)
        self._events.emit(EventKind.PROCESS_STARTED, f"{spec.name} started", pid=process.pid, data={"name": spec.name})
        watcher = asyncio.get_running_loop().create_task(self._watch(spec, process))
        self._entries[spec.name] = _Entry(spec, process, watcher)
        return process.pid

    def stop(self, name: str) -> None:
        """Begin to stop the process: its stop signal now, SIGKILL to its group when its grace ran out."""
        entry = self._entries.get(name)
        if entry is None:
            running = ", ".join(sorted(self._entries)) or "none"
            raise UnknownTargetError(f"No process called {name!r} runs; running: {running}.")
        task = asyncio.get_running_loop().create_task(self._stop(entry))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """Stop all of them and return when none is left."""
        await asyncio.gather(*(self._stop(entry) for entry in tuple(self._entries.values())))

    def _report(self, name: str, line: str) -> None:
        self._events.emit(EventKind.PROCESS_REPORT, line, data={"name": name})

    async def _watch(self, spec: ProcessSpec, process: RunningProcess) -> None:
        try:
            async with asyncio.timeout(spec.max_seconds):
                code = await process.wait()
        except TimeoutError:
            await self._end(spec, process)
            code = await process.wait()
        del self._entries[spec.name]
        how = {"exit_code": code} if code >= 0 else {"signal": signal.Signals(-code).name}
        text = f"{spec.name} ended: {'exit code ' + str(code) if code >= 0 else how['signal']}"
        self._events.emit(EventKind.PROCESS_ENDED, text, pid=process.pid, data={"name": spec.name}, **how)

    async def _stop(self, entry: _Entry) -> None:
        await self._end(entry.spec, entry.process)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(entry.watcher)

    @staticmethod
    async def _end(spec: ProcessSpec, process: RunningProcess) -> None:
        process.signal(stop_signal(spec))
        try:
            async with asyncio.timeout(spec.stop_timeout):
                await process.wait()
        except TimeoutError:
            process.signal(signal.SIGKILL, group=True)


def stop_signal(spec: ProcessSpec) -> int:
    """The number of the spec's stop signal."""
    try:
        return signal.Signals[spec.stop_signal]
    except KeyError as error:
        raise NotPossibleError(f"Found stop_signal {spec.stop_signal!r}; expected a name such as SIGINT.") from error
