"""Processes beside the pool, such as load runs: started through the pool backend, told in events, bounded in time."""

import asyncio
import signal

from lab.core.errors import NotPossibleError, UnknownTargetError
from lab.core.events import EventKind, EventRing
from lab.core.tasks import background
from lab.engine.lab import ProcessSpec
from lab.pool.manager import PoolManager, RunningProcess
from lab.pool.worker import signal_name


class _Entry:
    """A process that runs, and the one task that waits for its end."""

    def __init__(self, spec: ProcessSpec, process: RunningProcess) -> None:
        self.process = process
        self.watcher: asyncio.Task[None] | None = None
        self._spec = spec
        self._asked = asyncio.Event()

    def stop(self) -> None:
        """Send the stop signal, once."""
        if not self._asked.is_set():
            self._asked.set()
            self.process.signal(stop_signal(self._spec))

    async def ended(self) -> int:
        """Its exit status; it is stopped when its time is over, and killed when the grace after a stop is."""
        ended = asyncio.ensure_future(self.process.wait())
        asked = asyncio.ensure_future(self._asked.wait())
        await asyncio.wait((ended, asked), timeout=self._spec.max_seconds, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not ended.done():
            self.stop()
            await asyncio.wait((ended,), timeout=self._spec.stop_timeout)
        if not ended.done():
            self.process.signal(signal.SIGKILL, group=True)
        return await ended


class Processes:
    """All processes that run beside the pool, by name."""

    def __init__(self, pool: PoolManager, events: EventRing) -> None:
        self._pool = pool
        self._events = events
        self._entries: dict[str, _Entry] = {}
        self._starting: set[str] = set()

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
        entry = self._entries[spec.name] = _Entry(spec, process)
        entry.watcher = background(self._watch(spec.name, entry))
        return process.pid

    def stop(self, name: str) -> None:
        """Send the process its stop signal; SIGKILL to its group follows when its grace ran out."""
        entry = self._entries.get(name)
        if entry is None:
            running = ", ".join(sorted(self._entries)) or "none"
            raise UnknownTargetError(f"No process called {name!r} runs; running: {running}.")
        entry.stop()

    async def close(self) -> None:
        """Stop all of them and return when none is left."""
        entries = tuple(self._entries.values())
        for entry in entries:
            entry.stop()
        await asyncio.gather(*(entry.watcher for entry in entries if entry.watcher is not None))

    def _report(self, name: str, line: str) -> None:
        self._events.emit(EventKind.PROCESS_REPORT, line, data={"name": name})

    async def _watch(self, name: str, entry: _Entry) -> None:
        code = await entry.ended()
        del self._entries[name]
        ended = f"exit code {code}" if code >= 0 else signal_name(-code)
        how = {"exit_code": code} if code >= 0 else {"signal": ended}
        text = f"{name} ended: {ended}"
        self._events.emit(EventKind.PROCESS_ENDED, text, pid=entry.process.pid, data={"name": name}, **how)


def stop_signal(spec: ProcessSpec) -> int:
    """The number of the spec's stop signal."""
    try:
        return signal.Signals[spec.stop_signal]
    except KeyError as error:
        raise NotPossibleError(f"Found stop_signal {spec.stop_signal!r}; expected a name such as SIGINT.") from error
