"""Processes beside the pool, such as load runs: started through the pool backend, told in events, bounded in time."""

import asyncio
import signal

from lab.core.errors import NotPossibleError, UnknownTargetError
from lab.core.events import EventKind, EventRing
from lab.core.tasks import background
from lab.engine.lab import ProcessSpec
from lab.engine.service import ending
from lab.pool.manager import PoolManager, RunningProcess


class Stoppable:
    """A process that runs, and a bound to how long its end may take once it was asked to."""

    def __init__(
        self, process: RunningProcess, stop_signal: int, stop_timeout: float, max_seconds: float | None = None
    ) -> None:
        """It is stopped after `max_seconds`, whatever happens; None means never."""
        self.pid = process.pid
        self._process = process
        self._stop_signal = stop_signal
        self._stop_timeout = stop_timeout
        self._max_seconds = max_seconds
        self._asked = asyncio.Event()

    @property
    def asked(self) -> bool:
        """It was told to stop. What its exit status says then is its own affair: a Python that is interrupted while it
        starts ends with 1, later with SIGINT, and one that catches the signal as it likes."""
        return self._asked.is_set()

    def stop(self) -> None:
        """Send the stop signal, once."""
        if not self._asked.is_set():
            self._asked.set()
            self._process.signal(self._stop_signal)

    async def ended(self) -> int:
        """Its exit status; it is stopped when its time is over, and killed when the grace after a stop is."""
        ended = asyncio.ensure_future(self._process.wait())
        asked = asyncio.ensure_future(self._asked.wait())
        await asyncio.wait((ended, asked), timeout=self._max_seconds, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not ended.done():
            self.stop()
            await asyncio.wait((ended,), timeout=self._stop_timeout)
        if not ended.done():
            self._process.signal(signal.SIGKILL, group=True)
        return await ended


class Processes:
    """All processes that run beside the pool, by name."""

    def __init__(self, pool: PoolManager, events: EventRing) -> None:
        self._pool = pool
        self._events = events
        self._running: dict[str, Stoppable] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._starting: set[str] = set()

    async def start(self, spec: ProcessSpec) -> int:
        """Start `spec` and return its PID. A name that is in use raises `NotPossibleError`."""
        if spec.name in self._running or spec.name in self._starting:
            raise NotPossibleError(
                f"A process called {spec.name!r} already runs.", "Stop it first, or use another name."
            )
        number = stop_signal(spec)
        self._starting.add(spec.name)
        try:
            process = await self._pool.run(
                spec.name, spec.argv, spec.env, spec.cwd, lambda line: self._report(spec.name, line)
            )
        finally:
            self._starting.discard(spec.name)
        self._events.emit(EventKind.PROCESS_STARTED, f"{spec.name} started", pid=process.pid, data={"name": spec.name})
        running = Stoppable(process, number, spec.stop_timeout, spec.max_seconds)
        self._running[spec.name] = running
        self._watchers[spec.name] = background(self._watch(spec.name, running))
        return process.pid

    def stop(self, name: str) -> None:
        """Send the process its stop signal; SIGKILL to its group follows when its grace ran out."""
        if name not in self._running:
            running = ", ".join(sorted(self._running)) or "none"
            raise UnknownTargetError(f"No process called {name!r} runs; running: {running}.")
        self._running[name].stop()

    async def close(self) -> None:
        """Stop all of them and return when none is left."""
        for running in self._running.values():
            running.stop()
        await asyncio.gather(*self._watchers.values())

    def _report(self, name: str, line: str) -> None:
        self._events.emit(EventKind.PROCESS_REPORT, line, data={"name": name})

    async def _watch(self, name: str, running: Stoppable) -> None:
        status = await running.ended()
        del self._running[name], self._watchers[name]
        how = {"exit_code": status} if status >= 0 else {"signal": ending(status)}
        text = f"{name} ended: {ending(status)}"
        data = {"name": name} | ({"stopped": True} if running.asked else {})
        self._events.emit(EventKind.PROCESS_ENDED, text, pid=running.pid, data=data, **how)


def stop_signal(spec: ProcessSpec) -> int:
    """The number of the spec's stop signal."""
    try:
        return signal.Signals[spec.stop_signal]
    except KeyError as error:
        raise NotPossibleError(f"Found stop_signal {spec.stop_signal!r}; expected a name such as SIGINT.") from error
