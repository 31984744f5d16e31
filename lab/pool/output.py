"""What workers write, and processes beside the pool: the last lines kept at hand, everything in a log file, both
bounded.

Workers may write anything, in any amount. Bytes go to the log as they are; lines at hand are cut, and what is not
printable is escaped, so that no worker can write to the terminal that shows it. The disk is written by a thread of
its own; until a chunk is on disk no more is read, so that a flood slows down the worker that causes it and nobody
else.
"""

import asyncio
import contextlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lab.core.printable import printable

LINES_KEPT = 200
LONGEST_LINE = 2000
"""Bytes of a line kept at hand."""
LARGEST_LOG = 10 * 1024 * 1024
"""Bytes after which a log file is renamed to `.1`, replacing the one before."""
_LAST_WORDS = 3
_CHUNK = 64 * 1024
_LEFT_IN_PIPE = 1024 * 1024


class SlotOutput:
    """The output of all workers of one slot, or of all processes of one name beside the pool, oldest first."""

    def __init__(self, log: Path, disk: ThreadPoolExecutor) -> None:
        self._log = log
        self._disk = disk
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)

    def lines(self) -> tuple[str, ...]:
        """The last lines."""
        return tuple(self._lines)

    def keep(self, line: str) -> None:
        """Add one line to those at hand."""
        self._lines.append(line)

    def write(self, chunk: bytes) -> "Future[None]":
        """Append to the log file, in the disk's thread."""
        return self._disk.submit(_append, self._log, chunk)


class Capture:
    """The output of one worker: a pipe whose writing end, `fd`, becomes its stdout and stderr."""

    def __init__(self, slot: SlotOutput) -> None:
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._pipe, self.fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._pipe, False)
        self._loop.add_reader(self._pipe, self._readable)

    def release(self) -> None:
        """The writing end was handed over: close the copy here, or the end of file never comes."""
        os.close(self.fd)

    def finish(self) -> str:
        """The worker is gone: read what is left in the pipe, and return its last few lines, as one text.

        Grandchildren may still hold the other end; they are not waited for.
        """
        for _ in range(_LEFT_IN_PIPE // _CHUNK):
            if self._read() is None:
                break
        self._end()
        return "\n".join(self._words)

    def _readable(self) -> None:
        written = self._read()
        if written is not None:
            self._loop.remove_reader(self._pipe)
            written.add_done_callback(self._on_disk)

    def _read(self) -> "Future[None] | None":
        """Read one chunk, if there is one."""
        if self._pipe < 0:
            return None
        try:
            chunk = os.read(self._pipe, _CHUNK)
        except BlockingIOError:
            return None
        if not chunk:
            self._end()
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > LONGEST_LINE:
            self._rest = self._rest[: LONGEST_LINE + 1]
        return self._slot.write(chunk)

    def _take(self, line: bytes) -> None:
        text = printable(line, LONGEST_LINE)
        self._slot.keep(text)
        if text.strip():
            self._words.append(text)

    def _on_disk(self, _: "Future[None]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._resume)

    def _resume(self) -> None:
        if self._pipe >= 0:
            self._loop.add_reader(self._pipe, self._readable)

    def _end(self) -> None:
        if self._pipe < 0:
            return
        if self._rest:
            self._take(self._rest)
            self._rest = b""
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)
        self._pipe = -1


def _append(log: Path, chunk: bytes) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(chunk)
        size = file.tell()
    if size > LARGEST_LOG:
        log.replace(log.with_name(log.name + ".1"))
