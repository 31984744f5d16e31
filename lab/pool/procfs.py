"""What /proc tells of a process: its state, its session, and what it used. One small read each, no library."""

import os
from dataclasses import dataclass
from pathlib import Path

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
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before it may hold anything
    return ProcessStat(
        state=fields[0].decode(),
        session=int(fields[3]),
        cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND,
        rss_bytes=int(fields[21]) * _PAGE,
    )


def session_members(session: int) -> list[int]:
    """PIDs of all processes of a session. Reads the whole of /proc: milliseconds, not for a hot path."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return [pid for pid in pids if (seen := stat(pid)) is not None and seen.session == session]
