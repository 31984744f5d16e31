"""A process beside the pool, such as a compiler or a load run: started by the fork server, awaited by who wanted it."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Self

from lab.core.errors import UnavailableError
from lab.pool.output import Capture
from lab.pool.spawner import Child, Order, Spawner


class Process:
    """A running or ended process. Made by `start` only."""

    def __init__(self, report: "Lines | None" = None, output: Capture | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._report = report
        self._output = output
        self._words = ""
        self._child: asyncio.Future[Child] = loop.create_future()
        self._status: asyncio.Future[int] = loop.create_future()

    @classmethod
    async def start(
        cls, spawner: Spawner, order: Order, report: "Lines | None" = None, output: Capture | None = None
    ) -> Self:
        """Start what is ordered. Raises `UnavailableError` when it cannot be executed. Where it is cancelled, the
        process is killed as soon as it exists.

        What is left in `report` and `output` is read before `wait` returns.
        """
        process = cls(report, output)
        try:
            spawner.fork(order, process)
        except BaseException:
            process._finish()
            raise
        try:
            await process._child  # it is cancelled with its caller: see `forked`
        except asyncio.CancelledError:
            if (
                not process._child.cancelled() and process._child.exception() is None
            ):  # it came in this turn of the loop
                process.signal(signal.SIGKILL, group=True)
            raise
        except OSError as error:
            raise UnavailableError(f"Cannot start {order.argv[0]}: {error}.", "Check that it is installed.") from None
        return process

    @property
    def pid(self) -> int:
        """Its PID, also after it ended."""
        return self._child.result().pid

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to it, or to its whole process group. Does nothing when it is gone."""
        if group:
            self._child.result().signal_group(number)
        else:
            self._child.result().signal(number)

    async def wait(self) -> int:
        """Its exit status as `os.waitstatus_to_exitcode` has it: negative for a signal."""
        return await asyncio.shield(self._status)

    def on_end(self, tell: Callable[[int], None]) -> None:
        """Have `tell` called with its exit status, soon after it has ended."""
        self._status.add_done_callback(lambda status: tell(status.result()))

    def last_words(self) -> str:
        """Once it has ended: the last lines of its output, in one; empty if it wrote none."""
        return " | ".join(line.strip() for line in self._words.splitlines())

    # -- Watcher

    def forked(self, child: Child) -> None:
        if self._child.cancelled():
            child.signal_group(signal.SIGKILL)
        else:
            self._child.set_result(child)

    def refused(self, reason: str) -> None:
        self._finish()
        if not self._child.cancelled():
            self._child.set_exception(OSError(reason))

    def exited(self, status: int, at: float) -> None:
        self._finish()
        self._status.set_result(status)

    def stopped(self, stopped: bool, at: float) -> None:
        """A process beside the pool may be stopped as long as it likes."""

    def _finish(self) -> None:
        """There is no process (any more): read what is left of what it said."""
        if self._report is not None:
            self._report.finish()
        if self._output is not None:
            self._words = self._output.finish()


class Lines:
    """Calls `on_line` with each line that arrives on a pipe, until its end.

    The pipe belongs to this object from here on. Lines are decoded as UTF-8, whatever is not is replaced.
    """

    LONGEST = 64 * 1024
    """Bytes after which a line is cut."""
    _LEFT_IN_PIPE = 1024 * 1024

    def __init__(self, pipe: int, on_line: Callable[[str], None]) -> None:
        self._pipe = pipe
        self._on_line = on_line
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe, False)
        self._loop.add_reader(pipe, self._read)

    def finish(self) -> None:
        """The writer is gone: read what is left, and no more. Others who hold the other end are not waited for."""
        for _ in range(self._LEFT_IN_PIPE // self.LONGEST):
            if not self._read():
                break
        self._end()

    def _read(self) -> bool:
        """Read one chunk, if there is one."""
        if self._pipe < 0:
            return False
        try:
            chunk = os.read(self._pipe, self.LONGEST)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > self.LONGEST:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._on_line(line.decode(errors="replace"))
        if not chunk:
            self._end()
        return bool(chunk)

    def _end(self) -> None:
        if self._pipe >= 0:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
            if self._rest:
                self._on_line(self._rest.decode(errors="replace"))
