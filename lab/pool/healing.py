"""The photo finish of a healing: what a `worker.healed` event tells, from the death to the successor."""

from typing import Any

from lab.pool.worker import Death, Worker


def photo(death: Death, lost: int, worker: Worker, now: float, *, promoted: bool) -> dict[str, Any]:
    """The event's data, as `core.events` has it. Times are monotonic seconds; `now` is when `worker` began to serve.

    A standby that was `promoted` was forked and asked long before: that is no part of this healing.
    """
    began = death.signal_at if death.signal_at is not None else death.at
    return {
        "old_pid": death.pid,
        "death": death.told,
        "by": death.by,
        "signal_at": death.signal_at,
        "exit_at": death.at,
        "forked_at": None if promoted else worker.forked_at,
        "probe_at": None if promoted else worker.ready_at,
        "ready_at": now,
        "heal_ms": 1000.0 * (now - began),
        "lost": lost,
        "promoted": promoted,
    }


def sentence(photo: dict[str, Any], worker: Worker, *, routed: bool) -> str:
    """The same for a person."""
    does = "stands by" if not routed else "stood by and serves" if photo["promoted"] else "serves"
    return f"{worker.id} healed in {photo['heal_ms']:.0f} ms: {worker.pid} {does} in place of {photo['old_pid']}"
