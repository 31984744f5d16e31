"""`Lab` for faces in another process: a client of the control socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from lab.core.errors import DeadlineError, LabError, NoLabError, ProtocolError
from lab.core.events import EventBatch
from lab.core.snapshot import LabSnapshot
from lab.core.standing import Standing
from lab.core.trace import Trace, Why
from lab.engine import protocol
from lab.engine.lab import DEADLINE, REQUEST_DEADLINE, Answer, Changed, LabSpec, ProcessSpec, Scaled, Shifted, Signalled

T = TypeVar("T")

_PUSHES_KEPT = 16


class RemoteLab:
    """A lab that runs in another process. Made by `connect`; `close` hangs up and leaves the lab running."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greeting: protocol.Greeting) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._pushes: asyncio.Queue[protocol.Push | None] = asyncio.Queue(_PUSHES_KEPT)
        self._subscribed = False
        self._lost: LabError | None = None
        self._listener = asyncio.get_running_loop().create_task(self._listen())
        self.greeting = greeting

    @classmethod
    async def connect(cls, path: Path, *, read_only: bool = False) -> Self:
        """Speak to the lab whose control socket is `path`. Raises `NoLabError`, `ProtocolError`."""
        try:
            async with asyncio.timeout(DEADLINE):
                reader, writer = await asyncio.open_unix_connection(str(path), limit=protocol.MAX_LINE)
                line = await reader.readline()
        except (OSError, TimeoutError, ValueError):
            raise NoLabError(f"No lab is running: nobody answers at {path}.", "Start one: cgilab up") from None
        greeting = protocol.decode(line, protocol.Greeting, f"the greeting at {path}")
        if greeting.cgilab != protocol.VERSION:
            writer.close()
            raise ProtocolError(
                f"The lab at {path} speaks control protocol {greeting.cgilab} (cgilab {greeting.version});"
                f" expected {protocol.VERSION}.",
                "Use the same version of cgilab on both sides.",
            )
        remote = cls(reader, writer, greeting)
        if read_only:
            await remote._call(type(None), "hello", read_only=True)
        return remote

    async def snapshot(self) -> LabSnapshot:
        return await self._call(LabSnapshot, "snapshot")

    async def events(self, since: int = 0, limit: int = 1000, wait: float = 0.0) -> EventBatch:
        return await self._call(EventBatch, "events", wait + DEADLINE, since=since, limit=limit, wait=wait)

    async def spec(self) -> LabSpec:
        return await self._call(LabSpec, "spec")

    async def apply(self, spec: LabSpec) -> LabSpec:
        return await self._call(LabSpec, "apply", spec=spec)

    async def signal(self, target: str, signal: str = "SIGKILL") -> tuple[Signalled, ...]:
        return await self._call(tuple[Signalled, ...], "signal", target=target, signal=signal)

    async def scale(self, app: str, workers: int) -> Scaled:
        return await self._call(Scaled, "scale", app=app, workers=workers)

    async def set(self, app: str, changes: dict[str, str]) -> tuple[Changed, ...]:
        return await self._call(tuple[Changed, ...], "set", app=app, changes=changes)

    async def shift(self, route: str, weights: dict[str, int]) -> Shifted:
        return await self._call(Shifted, "shift", route=route, weights=weights)

    async def reload(self, app: str) -> None:
        await self._call(type(None), "reload", app=app)

    async def heal(self) -> int:
        return await self._call(int, "heal")

    async def request(self, app: str, path: str | None = None) -> Answer:
        return await self._call(Answer, "request", REQUEST_DEADLINE, app=app, path=path)

    async def traffic(self, rate: float, app: str | None = None) -> float:
        return await self._call(float, "traffic", rate=rate, app=app)

    async def output(self, app: str, slot: int) -> tuple[str, ...]:
        return await self._call(tuple[str, ...], "output", app=app, slot=slot)

    async def standings(self, app: str | None = None) -> tuple[Standing, ...]:
        return await self._call(tuple[Standing, ...], "standings", app=app)

    async def traces(self, identity: str | None = None, why: Why | None = None, limit: int = 20) -> tuple[Trace, ...]:
        return await self._call(tuple[Trace, ...], "traces", identity=identity, why=why, limit=limit)

    async def start_process(self, process: ProcessSpec) -> int:
        return await self._call(int, "start_process", process=process)

    async def stop_process(self, name: str) -> None:
        await self._call(type(None), "stop_process", name=name)

    async def subscribe(self, since: int = 0, hz: float = 5.0, snapshots: bool = True) -> AsyncIterator[protocol.Push]:
        """Events from cursor `since` on, and snapshots if asked; ends with `NoLabError` when the lab goes away."""
        self._subscribed = True
        try:
            await self._call(type(None), "subscribe", since=since, hz=hz, snapshots=snapshots)
            while (push := await self._pushes.get()) is not None:
                yield push
        finally:  # what comes from here on must not keep answers from coming
            self._subscribed = False
            while not self._pushes.empty():
                self._pushes.get_nowait()
        assert self._lost is not None
        raise self._lost

    async def close(self) -> None:
        """Hang up. The lab goes on."""
        self._listener.cancel()
        self._writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._writer.wait_closed()

    async def _call(self, kind: type[T], name: str, deadline: float = DEADLINE, /, **args: Any) -> T:
        if self._lost is not None:
            raise self._lost
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        request = protocol.Request(number, name, msgspec.Raw(msgspec.json.encode(args)))
        self._writer.write(msgspec.json.encode(request) + b"\n")
        try:
            async with asyncio.timeout(deadline):
                raw = await answer
        except TimeoutError as error:
            raise DeadlineError(f"The lab did not answer within {deadline:g} s.") from error
        finally:
            self._waiting.pop(number, None)
        return protocol.decode(raw, kind, f"the answer to {name}")

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                reply = protocol.decode(line, protocol.Reply, "a line of the lab")
                if reply.push is not None:
                    if self._subscribed:
                        await self._pushes.put(reply.push)
                elif reply.id is not None:
                    self._settle(self._waiting.get(reply.id), reply)
                elif reply.error is not None:
                    raise reply.error.error()
            self._end(NoLabError("The lab went away."))
        except LabError as error:
            self._end(error)
        except (OSError, ValueError) as error:
            self._end(NoLabError(f"The lab went away: {error}."))

    @staticmethod
    def _settle(answer: "asyncio.Future[msgspec.Raw] | None", reply: protocol.Reply) -> None:
        if answer is None or answer.done():
            return
        if reply.error is not None:
            answer.set_exception(reply.error.error())
        elif isinstance(reply.ok, msgspec.Raw):
            answer.set_result(reply.ok)

    def _end(self, error: LabError) -> None:
        self._lost = error
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
        if self._pushes.full():
            self._pushes.get_nowait()
        self._pushes.put_nowait(None)
