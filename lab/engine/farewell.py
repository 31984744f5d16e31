"""What became of the workers of a lab that ended: looked up in /proc, not believed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec


class Farewell(msgspec.Struct, frozen=True):
    """How many workers a closing lab stopped, and how many were still there afterwards."""

    stopped: int = 0
    left: int = 0
    why: str = ""
    """What kept the lab from ending by itself, in sentences; empty when nothing did."""


class Roll:
    """The processes that there were, each told from a later one of the same PID by when it was started."""

    def __init__(self, born: dict[int, int | None]) -> None:
        self._born = born

    @classmethod
    def call(cls, pids: Iterable[int]) -> Self:
        """Those that there are now."""
        return cls({pid: _born(pid) for pid in pids})

    def again(self, why: str = "") -> Farewell:
        """Who of them is still there."""
        left = sum(1 for pid, ticks in self._born.items() if ticks is not None and _born(pid) == ticks)
        return Farewell(stopped=len(self._born) - left, left=left, why=why)


def _born(pid: int) -> int | None:
    """When the process was started, in clock ticks since boot (proc(5), stat, field 22)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ProcessLookupError):
        return None
