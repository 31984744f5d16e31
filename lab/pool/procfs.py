"""What /proc tells of a process: its state, its session, and what it used. One small read each, no library."""

import os
from dataclasses import dataclass
from pathlib import Path

from lab.core.clock import Clock

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """Some fields of /proc/PID/stat (proc_pid_stat(5))."""

    state: str
    """One letter: R running, S sleeping, T stopped, Z zombie."""
    session: int
    cpu_s: float
    """User and system time since it began, in seconds."""
    rss_bytes: int


def stat(pid: int) -> ProcessStat | None:
    """The process now; None when it is gone."""
    fields = _fields(pid)
    if not fields:
        return None
    return ProcessStat(
        state=fields[0].decode(),
        session=int(fields[3]),
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND,
        rss_bytes=int(fields[21]) * _PAGE,
    )


class Usage:
    """What one process uses: CPU in percent of a core between two readings, and resident memory at the last one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before: tuple[float, float] | None = None
        self.cpu_percent: float | None = None
        self.rss_bytes: int | None = None

    def read(self, pid: int) -> None:
        """Read it once more. A process that is gone leaves the figures as they are."""
        seen, now = stat(pid), self._clock.monotonic()
        if seen is None:
            return
        if self._before is not None and now > self._before[0]:
            self.cpu_percent = 100.0 * (seen.cpu_s - self._before[1]) / (now - self._before[0])
        self._before = (now, seen.cpu_s)
        self.rss_bytes = seen.rss_bytes


def is_zombie(pid: int) -> bool:
    """It has ended and nobody has reaped it."""
    return _fields(pid)[:1] == [b"Z"]


def session_members(session: int) -> list[int]:
    """PIDs of all processes of a session. Reads the whole of /proc: milliseconds, not for a hot path."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if (seen := stat(pid)) is not None and seen.session == session]


def _fields(pid: int) -> list[bytes]:
    """/proc/PID/stat from the third field on; nothing when the process is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)  # a third of the time of a Path or a file object
    except OSError:
        return []
    try:
        text = os.read(fd, 4096)
    except OSError:
        return []
    finally:
        os.close(fd)
    return text[text.rindex(b")") + 2 :].split()  # the name before it may hold anything
