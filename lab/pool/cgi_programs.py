"""Classic CGI (RFC 3875): a process for each request, and no workers. All that is kept between two requests is the
program itself and a log for what it complains of.

So there is nothing to spawn ahead, to probe, to recycle or to heal, and the settings about that mean nothing here; only
`max_workers` does: it is how many may run at once, and the proxy, which holds the queue, keeps to it.
"""

import asyncio
import itertools
import os
import signal
from collections.abc import Callable

from lab.core.errors import LabError, NotPossibleError, UnavailableError
from lab.core.events import EventKind
from lab.core.model import AppSpec, Contract, Endpoint, Wire, WorkerId
from lab.core.tasks import background
from lab.pool.build import Builder, Program
from lab.pool.manager import AppView
from lab.pool.output import Capture, SlotOutput
from lab.pool.preparation import Preparation
from lab.pool.process import Process
from lab.pool.runner import Surroundings
from lab.pool.sockets import Binding
from lab.pool.spawner import Order, Spawner


class CgiRun:
    """One process that answers one request: a `CgiProgram`. Whoever has it closes the pipes."""

    def __init__(self, process: Process, stdin: int, stdout: int) -> None:
        self._process = process
        self.stdin = stdin
        self.stdout = stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.signal(signal.SIGKILL, group=True)

    def on_end(self, tell: Callable[[int], None]) -> None:
        self._process.on_end(tell)

    async def wait(self) -> None:
        """Until it has ended."""
        await self._process.wait()


class CgiPool:
    """The runs of one app. All calls come on the engine's loop."""

    def __init__(
        self,
        spec: AppSpec,
        surroundings: Surroundings,
        builder: Builder,
        output: Callable[[str, int], SlotOutput],
    ) -> None:
        self.spec = spec
        self._with = surroundings
        self._builder = builder
        self._preparation = Preparation(builder, self._on_build, self._on_prepared)
        self._output = output(spec.name, 0)
        self._complaints: Capture | None = None
        """One pipe for what all runs write to stderr, from the first one on."""
        self._program: _Ready | None = None
        self._unavailable: str | None = None
        self._building = False
        self._endpoint: Endpoint | None = None
        """Where requests are let in; None while none may start."""
        self._running: set[CgiRun] = set()
        self._ending: asyncio.Task[None] | None = None

    # -- desired state

    def update(self, spec: AppSpec) -> None:
        """Make `spec` the desired state; requests in flight go on with the program that they have."""
        self.spec = spec
        self._preparation.begin(spec)
        self._open()

    def reload(self) -> None:
        """Look at the program once more. There is no worker that would have to be replaced."""
        self._builder.try_again(self.spec.source)
        self._preparation.begin(self.spec)

    def stop(self) -> None:
        """Let no more requests in; `gone` tells when the last one has ended."""
        self._preparation.cancel()
        self._building = False
        self._ending = background(self._end(self._close()))

    async def gone(self) -> None:
        """Wait until no process is left after `stop`."""
        if self._ending is not None:
            await asyncio.shield(self._ending)

    @property
    def is_over(self) -> bool:
        """It was stopped and no process is left."""
        return self._ending is not None and self._ending.done()

    # -- looking

    def view(self) -> AppView:
        """The app as it is: without workers."""
        return AppView(
            name=self.spec.name,
            wanted=0,
            workers=(),
            unavailable=self._unavailable,
            building=self._building,
            protocol=Contract.CGI,
        )

    # -- requests

    async def run(self, env: dict[str, str]) -> CgiRun:
        """Start the program with this environment, and with what the app adds to it. Raises `UnavailableError`."""
        if self._program is None:
            raise UnavailableError(self._unavailable or f"{self.spec.name} is being prepared.", "Try again soon.")
        if self._complaints is None:
            self._complaints = Capture(self._output)
        run = await _started(self._with.spawner, self._program, env, self._complaints.fd)
        self._running.add(run)
        run.on_end(lambda status: self._running.discard(run))
        return run

    async def _end(self, endpoint: Endpoint | None) -> None:
        """What is in flight may finish within the time that workers have to drain."""
        if endpoint is not None:
            await self._with.routing.drained(endpoint, self.spec.pool.drain_timeout)
        while self._running:
            for run in self._running:
                run.kill()
            await asyncio.gather(*(run.wait() for run in self._running))
        if self._complaints is not None:
            self._complaints.release()
            self._complaints.finish()
            self._complaints = None

    # -- the program

    def _on_build(self) -> None:
        self._building = True
        self._tell(f"{self.spec.name} is being compiled")

    def _on_prepared(self, prepared: Program | LabError) -> None:
        news, self._building = self._building or self._unavailable is not None, False
        if isinstance(prepared, Program):
            self._program, self._unavailable = _Ready(prepared), None
            self._open()
            if news:
                self._tell(f"{self.spec.name} can be started")
        elif self._program is not None:
            self._tell(f"{self.spec.name} goes on with the program it had: {prepared}")
        else:
            self._unavailable = str(prepared)
            self._tell(f"{self.spec.name} is unavailable: {prepared}")

    def _open(self) -> None:
        """Let requests in, as many at once as may run."""
        most = self.spec.pool.max_workers
        wanted = None
        if self._program is not None and most:
            worker = WorkerId(self.spec.name, 0, 0)
            wanted = Endpoint(app=self.spec.name, worker=worker, concurrency=most, wire=Wire.CGI)
        if wanted != self._endpoint:
            self._close()
            self._endpoint = wanted
            if wanted is not None:
                self._with.routing.add(wanted)

    def _close(self) -> Endpoint | None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            self._with.routing.remove(endpoint)
        return endpoint

    def _tell(self, text: str) -> None:
        self._with.events.emit(EventKind.APP_STATUS, text, app=self.spec.name)


class _Ready:
    """A program and what stays the same from run to run."""

    def __init__(self, program: Program) -> None:
        self.argv = program.command(Binding(program.contract))
        self.env = dict(program.env)
        self.folder = str(program.source.parent)
        self.limits = program.limits


async def _started(spawner: Spawner, program: _Ready, env: dict[str, str], complaints: int) -> CgiRun:
    """A run, in the folder of its script (RFC 3875, 7.2)."""
    (its_input, stdin), (stdout, its_output) = _pipes(2)
    order = Order(
        argv=program.argv,
        env=env | program.env,
        bare=True,
        brief=True,
        cwd=env.get("SCRIPT_FILENAME", "").rpartition("/")[0] or program.folder,
        fds={0: its_input, 1: its_output, 2: complaints},
        limits=program.limits,
    )
    try:
        return CgiRun(await Process.start(spawner, order), stdin, stdout)
    except BaseException as error:
        _close(stdin, stdout)
        if isinstance(error, (NotPossibleError, OSError)):  # too long an environment; no descriptor left
            raise UnavailableError(f"{program.argv[0]} cannot be started: {error}") from None
        raise
    finally:
        _close(its_input, its_output)


def _pipes(count: int) -> list[tuple[int, int]]:
    """Pipes that no program inherits by accident: all, or none and `UnavailableError`."""
    made: list[tuple[int, int]] = []
    try:
        for _ in range(count):
            made.append(os.pipe2(os.O_CLOEXEC))
    except OSError as error:
        _close(*itertools.chain(*made))
        why = f"There is no pipe for another program: {error.strerror}."
        raise UnavailableError(why, "Let fewer run at once.") from None
    return made


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)
