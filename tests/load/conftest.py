"""What a load run needs of a lab, and no more: a listener that answers, a place to run a process, events.

The process, its pipe and its signals are real; so is every request. The whole lab is tested in tests/process.
"""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from lab.core.clock import SystemClock
from lab.core.errors import UnknownTargetError
from lab.core.events import EventBatch, EventKind, EventRing
from lab.core.snapshot import AppSnapshot, Invariants, LabSnapshot, Totals, Traffic
from lab.engine.lab import ProcessSpec


class Listener:
    """Answers GET requests: 200, or 503 below `/broken`, or a redirect away below `/away`; counts them by path."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                self.seen[path] += 1
                writer.write(self._answer(path))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, path: str) -> bytes:
        if path.startswith("/broken"):
            return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        if path.startswith("/away"):
            return b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class OneProcessLab:
    """The part of `Lab` that load speaks to."""

    def __init__(self, listener: str) -> None:
        self.ring = EventRing(SystemClock())
        self.started: list[ProcessSpec] = []
        self._listener = listener
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self.ring.watch(lambda event: self._news.set())

    async def snapshot(self) -> LabSnapshot:
        app = AppSnapshot(
            name="search",
            route="/api/search",
            language="c",
            policy="static",
            selection="round_robin",
            concurrency=1,
            wanted=2,
            workers=(),
            queue=0,
            rps=0.0,
            p50_ms=None,
            p95_ms=None,
            p99_ms=None,
        )
        return LabSnapshot(
            name="lab",
            listener=self._listener,
            uptime_s=1.0,
            at=1.0,
            apps=(app,),
            totals=Totals(),
            own=Traffic(rate=0.0, totals=Totals()),
            invariants=Invariants(conserved=True, no_zombies=True, within_bounds=True),
            events_next=self.ring.next,
        )

    async def events(self, since: int = 0, limit: int = 1000, wait: float = 0.0) -> EventBatch:
        if since >= self.ring.next:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait)
        return self.ring.read(since, limit)

    async def start_process(self, process: ProcessSpec) -> int:
        self.started.append(process)
        read, write = os.pipe()
        argv = [word.replace("{report_fd}", str(write)) for word in process.argv]
        child = await asyncio.create_subprocess_exec(
            *argv,
            env={**os.environ, **process.env},
            cwd=process.cwd,
            pass_fds=(write,),
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.close(write)
        self._processes[process.name] = child
        self._tasks.append(asyncio.create_task(self._follow(process.name, child, read)))
        return child.pid

    async def stop_process(self, name: str) -> None:
        child = self._processes.get(name)
        if child is None:
            raise UnknownTargetError(f"No process called {name!r} runs.")
        child.send_signal(signal.Signals[self.started[-1].stop_signal])

    def kill(self, name: str) -> None:
        """End the process as the kernel's out-of-memory killer would."""
        self._processes[name].kill()

    async def close(self) -> None:
        for child in self._processes.values():
            child.kill()
        await asyncio.gather(*self._tasks)

    async def _follow(self, name: str, child: asyncio.subprocess.Process, descriptor: int) -> None:
        reader = asyncio.StreamReader()
        pipe = os.fdopen(descriptor, "rb")
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
        while text := await reader.readline():
            self.ring.emit(EventKind.PROCESS_REPORT, text.decode().rstrip(), data={"name": name})
        transport.close()
        code = await child.wait()
        del self._processes[name]
        how = {"exit_code": code} if code >= 0 else {"signal": signal.Signals(-code).name}
        self.ring.emit(EventKind.PROCESS_ENDED, f"{name} ended: {how}", data={"name": name}, **how)


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    """A server that stands for the lab's listener."""
    listening = Listener()
    server = await asyncio.start_server(listening.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    listening.url = f"http://{host}:{port}"
    async with server:
        yield listening


@pytest.fixture
async def lab(listener: Listener) -> AsyncIterator[OneProcessLab]:
    """A lab that runs one process beside nothing."""
    one = OneProcessLab(listener.url)
    yield one
    await one.close()
