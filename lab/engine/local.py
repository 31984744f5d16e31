"""`Lab` for faces in this process: the engine on a thread of its own, with an event loop of its own.

Nothing of the engine ever runs on a face's loop, so a screen that is slow or a terminal that stopped reading cannot
slow a request down. Calls cross by `run_coroutine_threadsafe`; each has a deadline.
"""

import asyncio
import concurrent.futures
import contextlib
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from lab.core.errors import DeadlineError, NoLabError
from lab.core.events import EventBatch
from lab.core.snapshot import LabSnapshot
from lab.core.standing import Standing
from lab.core.trace import Trace, Why
from lab.engine.control import ControlServer
from lab.engine.engine import Engine
from lab.engine.farewell import Farewell
from lab.engine.lab import DEADLINE, REQUEST_DEADLINE, Answer, Changed, LabSpec, ProcessSpec, Scaled, Shifted, Signalled

T = TypeVar("T")

_GRACE = 5.0
"""Seconds for which the engine's loop may stand still while it is to end."""

_IMPATIENCE = 1.0
"""Seconds after which whoever waits for an answer looks whether one can come at all."""

_LOOK = 0.2
"""Seconds between two looks at whether it does."""

_SWITCH_INTERVAL = 0.001
"""Measured beside a busy screen at 2,000 requests/s: with Python's default of 5 ms p99 is four times as long."""


class LocalLab:
    """The engine, started by `start`, ended by `close`. Methods may be awaited on any other loop."""

    def __init__(self, engine: Engine, control: Path | None) -> None:
        self._engine = engine
        self._control = ControlServer(engine, control) if control is not None else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready: threading.Event = threading.Event()
        self._failure: BaseException | None = None
        self._calls: set[concurrent.futures.Future[Any]] = set()
        """Those that the engine has not answered yet."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread; return when the listener is open. Raises what kept it from opening."""
        sys.setswitchinterval(_SWITCH_INTERVAL)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    async def snapshot(self) -> LabSnapshot:
        return await self._call(self._engine.snapshot())

    async def events(self, since: int = 0, limit: int = 1000, wait: float = 0.0) -> EventBatch:
        return await self._call(self._engine.events(since, limit, wait), wait + DEADLINE)

    async def spec(self) -> LabSpec:
        return await self._call(self._engine.spec())

    async def apply(self, spec: LabSpec) -> LabSpec:
        return await self._call(self._engine.apply(spec))

    async def signal(self, target: str, signal: str = "SIGKILL") -> tuple[Signalled, ...]:
        return await self._call(self._engine.signal(target, signal))

    async def scale(self, app: str, workers: int) -> Scaled:
        return await self._call(self._engine.scale(app, workers))

    async def set(self, app: str, changes: dict[str, str]) -> tuple[Changed, ...]:
        return await self._call(self._engine.set(app, changes))

    async def shift(self, route: str, weights: dict[str, int]) -> Shifted:
        return await self._call(self._engine.shift(route, weights))

    async def reload(self, app: str) -> None:
        await self._call(self._engine.reload(app))

    async def heal(self) -> int:
        return await self._call(self._engine.heal())

    async def request(self, app: str, path: str | None = None) -> Answer:
        return await self._call(self._engine.request(app, path), REQUEST_DEADLINE)

    async def traffic(self, rate: float, app: str | None = None) -> float:
        return await self._call(self._engine.traffic(rate, app))

    async def output(self, app: str, slot: int) -> tuple[str, ...]:
        return await self._call(self._engine.output(app, slot))

    async def standings(self, app: str | None = None) -> tuple[Standing, ...]:
        return await self._call(self._engine.standings(app))

    async def traces(self, identity: str | None = None, why: Why | None = None, limit: int = 20) -> tuple[Trace, ...]:
        return await self._call(self._engine.traces(identity, why, limit))

    async def start_process(self, process: ProcessSpec) -> int:
        return await self._call(self._engine.start_process(process))

    async def stop_process(self, name: str) -> None:
        return await self._call(self._engine.stop_process(name))

    async def close(self) -> None:
        """Stop everything and return when no process is left."""
        await asyncio.get_running_loop().run_in_executor(None, self.stop)

    def stop(self) -> Farewell:
        """Stop everything; return when the engine has ended, with what became of the workers.

        It may take as long as workers may take to end. But an engine whose loop stands still, in somebody else's code
        that does not come back, is abandoned: its thread ends with this process.
        """
        while self._thread.is_alive():
            if not self._hears():
                return self._engine.abandon()
            self._thread.join(_LOOK)
        return self._engine.farewell

    def _hears(self) -> bool:
        """Whether the engine's loop hears, or heard before it ended, that it is to stop."""
        loop, stop, heard = self._loop, self._stop, threading.Event()
        assert loop is not None
        assert stop is not None

        def hear() -> None:
            stop.set()
            heard.set()

        with contextlib.suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(hear)
            return heard.wait(_GRACE) or not self._thread.is_alive()
        return True

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                try:
                    runner.run(self._main())
                except BaseException as error:
                    self._failure = error
                    if self._ready.is_set():  # it was running; else `start` raises it
                        self._engine.defect(error)
        finally:
            self._ready.set()
            for call in tuple(self._calls):
                call.cancel()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            # The name is claimed before anything is started, so that a second lab of this name starts nothing.
            if self._control is not None:
                await self._control.start()
            await self._engine.start()
            self._ready.set()
            await self._stop.wait()
        finally:
            try:
                await self._engine.close()
            finally:
                if self._control is not None:
                    await self._control.close()

    async def _call(self, coroutine: Coroutine[Any, Any, T], deadline: float = DEADLINE) -> T:
        loop = self._loop
        if loop is None or not self._thread.is_alive() or self._stop is None or self._stop.is_set():
            coroutine.close()
            raise self._ended()
        try:
            call = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:  # the loop closed between the question and the call
            coroutine.close()
            raise self._ended() from None
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        answer, time, why = asyncio.wrap_future(call), asyncio.get_running_loop().time, ""
        since = time()
        try:
            while not answer.done():
                waited = time() - since
                if why or waited >= deadline:
                    raise DeadlineError(f"The lab did not answer within {waited:.1f} s.", why)
                await asyncio.wait((answer,), timeout=min(_IMPATIENCE, deadline - waited))
                why = self._held_up()
            return answer.result()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._ended() from None  # nobody here gave it up: the engine did, as it ended
        finally:
            answer.cancel()

    def _held_up(self) -> str:
        """What keeps the engine from answering, if that is known, and what can be done."""
        why = self._engine.held_up()
        return why and f"{why} Quitting ends the lab all the same."

    def _ended(self) -> NoLabError:
        if self._failure is None:
            return NoLabError("The lab has ended.")
        found = f"The lab has ended by a defect of cgilab ({self._failure!r})."
        return NoLabError(found, f"The details are in {self._engine.defects}: please report them.")
