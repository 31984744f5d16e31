"""The access log: a line for each request, or for one of so many, without the event loop ever waiting for a disk.

The loop hands over what it knows ten times a second; a thread makes lines of it, writes them at once, and starts a new
file before one becomes too long. What comes faster than the disk takes it is not kept: those lines are counted, and the
count is told. Two forms: Apache's `combined`, which every log reader knows, and JSON with where the time went.

A line holds what strangers sent, so every byte that is not plain text is escaped: nobody can forge a second line.
"""

import asyncio
import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import msgspec

from lab.core.model import AccessLogForm
from lab.core.spelling import counted

PIECE: Final = 0.1
"""Seconds between two hand-overs."""

MOST: Final = 20_000
"""Requests that wait to be written. What comes beyond is lost."""

KEPT: Final = 4
"""Old files beside the one that is written: `access.log.1` is the newest of them."""

_WANTED: Final = re.compile(rb"(?i)\n(user-agent|referer):[ \t]*([^\r]*)\r")
_UNSAFE: Final = re.compile(rb"[^\x20\x21\x23-\x5b\x5d-\x7e]")
_LONGEST: Final = 2048
"""Bytes of a target or a field that are written."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known of a request at its end. Times are seconds, sizes are bytes of bodies."""

    ended: float
    """Monotonic."""
    own: bool
    """The lab sent it itself."""
    client: str
    status: int
    """0: the client was sent nothing."""
    outcome: str
    identity: str = ""
    """Empty for what could not be read as a request."""
    method: bytes = b""
    target: bytes = b""
    modern: bool = True
    """HTTP/1.1."""
    host: bytes | None = None
    lines: bytes = b""
    """Its head, of which some fields are written."""
    received: int = 0
    sent: int = 0
    took: float = 0.0
    queued: float = 0.0
    connecting: float = 0.0
    tried: float = 0.0
    """At workers that failed it."""
    first: float = 0.0
    """Until the head of the answer; 0 where it came with the end."""
    route: str = ""
    app: str = ""
    worker: str = ""


class AccessLog:
    """Writes to `file` from a thread of its own, from when it is made until `close`. Used on one event loop."""

    def __init__(
        self,
        file: Path,
        form: AccessLogForm,
        sample: int,
        size: int,
        tell: Callable[[str], None],
    ) -> None:
        """One of `sample` requests is for it. A file that has `size` bytes is followed by another.

        `tell` hears what goes wrong.
        """
        self.file = file
        self.sample = sample
        self._line = {AccessLogForm.COMBINED: self._combined, AccessLogForm.JSON: self._json}[form]
        self._size = size
        self._tell = tell
        self._told_lost = self._lost_before = 0
        self._entries: list[Entry] = []
        self._given = 0
        self._taken = 0
        self._refused = 0
        """Lines for which there was no room."""
        self._failed = 0
        """Lines that the thread could not write; `_taken` and this are the thread's to change."""
        self._failure = ""
        self._told = ""
        self._queue: SimpleQueue[list[Entry] | None] = SimpleQueue()
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that were not written."""
        return self._refused + self._failed

    def add(self, entry: Entry) -> None:
        """Have a line written soon."""
        if self._given - self._taken >= MOST:
            self._refused += 1
        else:
            self._given += 1
            self._entries.append(entry)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PIECE, self._hand_over)

    def close(self) -> None:
        """Write what there is, then end."""
        if self._timer is not None:
            self._timer.cancel()
            self._hand_over()
        self._queue.put(None)

    def join(self, timeout: float) -> None:
        """Wait until all is written, after `close`. Blocks."""
        self._thread.join(timeout)

    # -- on the loop

    def _hand_over(self) -> None:
        self._timer = None
        entries, self._entries = self._entries, []
        if entries:
            self._queue.put(entries)
        lost, failure = self.lost, self._failure
        if failure and failure != self._told:
            self._tell(f"The access log {self.file} cannot be written: {failure}")
        elif self._told and not failure:
            missing = counted(lost - self._lost_before, "line is", "lines are")
            self._tell(f"The access log {self.file} is written again; {missing} missing")
        elif not failure and lost > self._told_lost:
            lines = counted(lost - self._told_lost, "line")
            self._tell(f"The access log lost {lines}: they came faster than the disk takes them")
        if not failure:
            self._lost_before = lost
        self._told, self._told_lost = failure, lost

    # -- in the thread

    def _run(self) -> None:
        place = _Place(self.file, self._size)
        while (entries := self._queue.get()) is not None:
            apart = time.time() - time.monotonic()
            try:
                place.write(b"".join([self._line(entry, entry.ended + apart) for entry in entries]))
                self._failure = ""
            except OSError as error:
                self._failed += place.rest.count(b"\n")
                self._failure = error.strerror or str(error)
                place.close()
            self._taken += len(entries)
        place.close()

    def _combined(self, entry: Entry, wall: float) -> bytes:
        """Apache's combined format; status 000 where the client was sent nothing."""
        found = {name.lower(): value for name, value in _WANTED.findall(entry.lines)}
        asked = b"%b %b HTTP/1.%d" % (entry.method, _safe(entry.target), entry.modern) if entry.method else b"-"
        return b'%b - - [%b] "%b" %03d %b "%b" "%b"\n' % (
            entry.client.encode() or b"-",
            time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(wall)).encode(),
            asked,
            entry.status,
            b"%d" % entry.sent if entry.sent else b"-",
            _safe(found.get(b"referer", b"-")),
            _safe(found.get(b"user-agent", b"-")),
        )

    def _json(self, entry: Entry, wall: float) -> bytes:
        found = {name.lower(): value for name, value in _WANTED.findall(entry.lines)}
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall))
        document = {
            "time": f"{moment}.{int(wall % 1 * 1000):03d}Z",
            "id": entry.identity or None,
            "own": entry.own,
            "client": entry.client,
            "method": entry.method.decode("latin-1"),
            "target": _text(entry.target),
            "host": None if entry.host is None else _text(entry.host),
            "status": entry.status,
            "outcome": entry.outcome,
            "received": entry.received,
            "sent": entry.sent,
            "seconds": round(entry.took, 6),
            "queue": round(entry.queued, 6),
            "connect": round(entry.connecting, 6),
            "tried": round(entry.tried, 6),
            "first_byte": round(entry.first or entry.took, 6),
            "route": entry.route,
            "app": entry.app,
            "worker": entry.worker,
            "referer": _text(found.get(b"referer", b"")),
            "user_agent": _text(found.get(b"user-agent", b"")),
        }
        return msgspec.json.encode(document) + b"\n"


class _Place:
    """The file, opened when something is to be written, and its predecessors.

    Whoever moves it away (logrotate(8), a person) need not say so: the next lines begin a new one. What is no regular
    file, such as a named pipe, stays what it is.
    """

    def __init__(self, file: Path, size: int) -> None:
        self.rest = b""
        """What `write` has not written, the first line of it perhaps in part."""
        self._file = file
        self._most = size
        self._descriptor = -1
        self._size = 0
        self._regular = True
        self._identity = (0, 0)
        self._torn = False
        """The last line was broken off."""

    def write(self, lines: bytes) -> None:
        """Append them, all in one file. Raises `OSError`, and has `rest` then."""
        self.rest = lines
        if self._descriptor >= 0 and self._moved_away():
            self.close()
        if self._descriptor >= 0 and self._regular and self._size and self._size + len(lines) > self._most:
            self.close()
            self._move_on()
        if self._descriptor < 0:
            self._open()
        if self._torn:
            os.write(self._descriptor, b"\n")
        self._size += len(lines)
        while self.rest:
            written = os.write(self._descriptor, self.rest)
            self._torn = self.rest[written - 1 : written] != b"\n"
            self.rest = self.rest[written:]

    def close(self) -> None:
        """May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        with contextlib.suppress(FileExistsError):  # if it is no folder, opening says so
            self._file.parent.mkdir(parents=True)
        if self._file.is_file() and self._file.stat().st_size >= self._most:
            self._move_on()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._file, flags | os.O_NONBLOCK, 0o600)  # else a pipe waits here for its reader
        os.set_blocking(self._descriptor, True)
        opened = os.fstat(self._descriptor)
        self._identity = (opened.st_dev, opened.st_ino)
        self._regular = stat.S_ISREG(opened.st_mode)
        self._size = opened.st_size
        self._torn = self._torn and opened.st_size > 0

    def _moved_away(self) -> bool:
        try:
            there = self._file.stat()
        except OSError:  # opening says what is wrong
            return True
        return (there.st_dev, there.st_ino) != self._identity

    def _move_on(self) -> None:
        """`access.log` becomes `access.log.1`, and so on; the oldest one goes."""
        for number in range(KEPT, 0, -1):
            before = self._file.with_name(f"{self._file.name}.{number - 1}") if number > 1 else self._file
            with contextlib.suppress(FileNotFoundError):
                before.replace(self._file.with_name(f"{self._file.name}.{number}"))


def _text(value: bytes) -> str:
    """What JSON has between quotes: a terminal that shows the file must not take any of it for a command."""
    return value[:_LONGEST].decode("ascii", "backslashreplace")


def _safe(value: bytes) -> bytes:
    """What stands between quotes: everything but plain text as `\\xhh`, as Apache writes it."""
    return _UNSAFE.sub(lambda byte: b"\\x%02x" % byte[0][0], value[:_LONGEST])
