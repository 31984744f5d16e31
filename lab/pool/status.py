"""A pool's status page in the words of PHP-FPM (`fpm_status.c`), so that what one learns here holds there.

A pure function of figures that the engine collects from pool and proxy. A figure that this lab does not measure is left
out, never made up.
"""

import json
from datetime import UTC, datetime

import msgspec

from lab.core.states import LIVE, WorkerState

FIGURES = tuple[tuple[str, str | int | float], ...]
"""A page as names and values, in PHP-FPM's order."""


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker."""

    pid: int
    state: WorkerState
    started_wall: float
    """Seconds since 1970-01-01 UTC."""
    since_s: float
    requests: int
    in_flight: int
    cpu_percent: float | None = None
    rss_bytes: int | None = None


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One pool, with those of its workers that have a process."""

    pool: str
    policy: str
    started_wall: float
    since_s: float
    accepted: int
    """Requests accepted for this pool."""
    queue: int
    max_queue: int
    queue_length: int
    """The most requests that may wait."""
    max_active: int
    """The most workers that were active at once."""
    max_children_reached: int
    slow_requests: int
    processes: tuple[ProcessStatus, ...]


def render(status: PoolStatus, *, as_json: bool = False, full: bool = False) -> str:
    """The page. `full` adds each process, in text as blocks after lines of asterisks, in JSON as a list `processes`."""
    page = _pool(status)
    blocks = [_process(one) for one in status.processes] if full else []
    if as_json:
        return json.dumps(dict(page) | ({"processes": [dict(block) for block in blocks]} if full else {}))
    rule = "\n" + "*" * 24 + "\n"
    return rule.join([_text(page), *map(_text, blocks)])


def _pool(status: PoolStatus) -> FIGURES:
    live = [one for one in status.processes if one.state in LIVE]
    idle = sum(one.state is WorkerState.READY and not one.in_flight for one in live)
    return (
        ("pool", status.pool),
        ("process manager", status.policy),
        ("start time", _date(status.started_wall)),
        ("start since", int(status.since_s)),
        ("accepted conn", status.accepted),
        ("listen queue", status.queue),
        ("max listen queue", status.max_queue),
        ("listen queue len", status.queue_length),
        ("idle processes", idle),
        ("active processes", len(live) - idle),
        ("total processes", len(live)),
        ("max active processes", status.max_active),
        ("max children reached", status.max_children_reached),
        ("slow requests", status.slow_requests),
    )


def _process(one: ProcessStatus) -> FIGURES:
    state = "Running" if one.in_flight else "Idle" if one.state is WorkerState.READY else one.state.capitalize()
    measured: list[tuple[str, str | int | float]] = []
    if one.cpu_percent is not None:
        measured.append(("cpu percent", round(one.cpu_percent, 1)))
    if one.rss_bytes is not None:
        measured.append(("memory", one.rss_bytes))
    return (
        ("pid", one.pid),
        ("state", state),
        ("start time", _date(one.started_wall)),
        ("start since", int(one.since_s)),
        ("requests", one.requests),
        *measured,
    )


def _text(figures: FIGURES) -> str:
    return "".join(f"{name + ':':<22}{value}\n" for name, value in figures)


def _date(wall: float) -> str:
    """As PHP-FPM writes it: `14/Nov/2023:22:13:20 +0000`."""
    return datetime.fromtimestamp(wall, UTC).strftime("%d/%b/%Y:%H:%M:%S %z")
