"""Puts side by side what the balancer believes of each endpoint and what the kernel says: as values, and in words.

The command line and the screen's `:` show the same lines.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from lab.core.model import Endpoint, WorkerId
from lab.core.standing import Actual, Believed, Standing, differences
from lab.core.states import EndpointHealth
from lab.engine.lab import Lab
from lab.pool import accept_queues, procfs
from lab.pool.accept_queues import AcceptQueue, Address
from lab.pool.manager import PoolView, WorkerView
from lab.proxy.manager import EndpointView, ProxyView

_HEADS = ("WORKER", "PID", "health", "in flight", "weight", "average", "process", "open", "in its accept queue")

_PROCESS = {
    "R": "running",
    "S": "sleeping",
    "I": "sleeping",
    "D": "waiting for the disk",
    "T": "stopped",
    "t": "traced",
    "Z": "zombie",
    "X": "gone",
}
"""States of proc(5), in words."""


async def look(
    app: str | None, pool: PoolView, proxy: ProxyView, routed: Callable[[WorkerId], bool]
) -> tuple[Standing, ...]:
    """Every worker that has a process and an address, of one app or of all."""
    views = {view.endpoint.worker: view for upstream in proxy.upstreams for view in upstream.endpoints}
    workers = [
        worker
        for one in pool.apps
        if app in (None, one.name)
        for worker in one.workers
        if worker.pid is not None and worker.endpoint is not None
    ]
    queues = await asyncio.to_thread(_queues, {_address(worker.endpoint) for worker in workers if worker.endpoint})
    return tuple(_standing(worker, views.get(worker.worker), routed(worker.worker), queues) for worker in workers)


async def told(lab: Lab, app: str | None) -> list[str]:
    """A table of endpoints, each difference on a line of its own below its row. Raises `UnknownTargetError`."""
    return lines(await lab.standings(app))


def lines(standings: Sequence[Standing]) -> list[str]:
    """The table, for a person."""
    if not standings:
        return ["No endpoint: no worker runs."]
    rows = [_HEADS, *(cells(standing) for standing in standings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    believed, actual = sum(widths[:2]) + 4, sum(widths[2:6]) + 8
    found = [f"{'':{believed}}{'THE BALANCER BELIEVES':{actual}}THE KERNEL KNOWS"]
    for row, standing in zip(rows, (None, *standings), strict=True):
        found.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        found += [f"  ! {difference}" for difference in (standing.differences if standing is not None else ())]
    return found


def cells(standing: Standing) -> tuple[str, ...]:
    """What stands in a row of the table, below `_HEADS`."""
    believed, actual = standing.believed, standing.actual
    open_now = "-" if actual.established is None else str(actual.established)
    waiting = "-" if actual.waiting is None else f"{actual.waiting} of {actual.room}"
    return (
        f"{standing.app}/{standing.slot}",
        str(standing.pid or "-"),
        health(believed),
        f"{believed.in_flight} of {believed.places}",
        f"{believed.weight:g}",
        "-" if believed.ewma_ms is None else f"{believed.ewma_ms:.1f} ms",
        actual.process or "-",
        open_now,
        waiting,
    )


def health(believed: Believed) -> str:
    """How the balancer thinks of it, in a word or two."""
    if not believed.routed:
        return "not routed"
    return str(believed.health or EndpointHealth.HEALTHY) + (f": {believed.why}" if believed.why else "")


def _standing(
    worker: WorkerView, view: EndpointView | None, routed: bool, queues: Mapping[Address, AcceptQueue]
) -> Standing:
    endpoint, identity = worker.endpoint, worker.worker
    assert endpoint is not None
    believed = Believed(
        routed=routed,
        in_flight=view.in_flight if view is not None else 0,
        places=endpoint.concurrency,
        answered=view.answered if view is not None else 0,
        failed=view.failed if view is not None else 0,
        weight=view.weight if view is not None else 1.0,
        health=view.health if view is not None else None,
        why=view.health_why if view is not None else "",
        ewma_ms=view.ewma_ms if view is not None else None,
    )
    queue = queues.get(_address(endpoint))
    actual = Actual(
        process=_process(worker.pid),
        established=queue.established if queue is not None else None,
        waiting=queue.waiting if queue is not None else None,
        room=queue.room if queue is not None else None,
    )
    return Standing(
        app=identity.app,
        slot=identity.slot,
        generation=identity.generation,
        pid=worker.pid,
        endpoint=str(endpoint),
        believed=believed,
        actual=actual,
        differences=differences(believed, actual, shared=endpoint.shared),
    )


def _queues(addresses: set[Address]) -> dict[Address, AcceptQueue]:
    try:
        return accept_queues.look(addresses)
    except OSError:  # a kernel, or a container, that does not tell
        return {}


def _address(endpoint: Endpoint) -> Address:
    return endpoint.path or endpoint.port


def _process(pid: int | None) -> str | None:
    if pid is None:
        return None
    seen = procfs.stat(pid)
    return "gone" if seen is None else _PROCESS.get(seen.state)
