"""Where an endpoint stands, twice: what the balancer believes of it, and what the kernel knows.

The two may differ, and each difference is a lesson: a frozen worker that still counts as well, requests "in flight"
that nobody has accepted yet. `cgilab endpoints --json` is a tuple of `Standing`, encoded; its shape is published as
standing.schema.json, which `python -m lab.core.standing` prints.
"""

import sys

import msgspec

from lab.core.schema import published
from lab.core.spelling import counted
from lab.core.states import EndpointHealth

_UNABLE = frozenset({"stopped", "traced", "zombie", "gone"})


class Believed(msgspec.Struct, frozen=True, kw_only=True):
    """What the balancer goes by when it chooses."""

    routed: bool
    """It is in its upstream."""
    in_flight: int
    """Requests that the balancer has open to it, probes included."""
    places: int
    """The most that it would open."""
    answered: int
    failed: int
    weight: float
    """Its share beside the others'."""
    health: EndpointHealth | None
    """None: it never was in its upstream."""
    why: str = ""
    """Why it is not healthy, as the end of a sentence about it."""
    ewma_ms: float | None = None
    """How long its answers take lately, where the selection policy measures that."""


class Actual(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel says of its process and its socket. None: it cannot be seen from here."""

    process: str | None
    """`running`, `sleeping`, `waiting for the disk`, `stopped`, `traced`, `zombie` or `gone`."""
    established: int | None
    """Connections that its process has accepted and that are open."""
    waiting: int | None
    """Connections in its accept queue: the kernel has taken them, the process has not."""
    room: int | None
    """The most that fit into that queue: the `backlog` of listen(2), capped by net.core.somaxconn."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint, seen from both sides at nearly the same time."""

    app: str
    slot: int
    generation: int
    pid: int | None
    endpoint: str
    believed: Believed
    actual: Actual
    differences: tuple[str, ...]
    """Where the two disagree, a sentence each; empty when they agree."""


def differences(believed: Believed, actual: Actual, *, shared: bool) -> tuple[str, ...]:
    """What one who believes the balancer would get wrong. `shared`: others accept from the same socket."""
    found = []
    chosen = believed.routed and believed.health is EndpointHealth.HEALTHY
    if chosen and actual.process in _UNABLE:
        found.append(f"The balancer would choose it, but its process is {actual.process}.")
    if actual.waiting is None or actual.established is None:
        return tuple(found)
    if actual.waiting:
        whose = "one of its workers takes" if shared else "its process takes"
        wait = counted(actual.waiting, "connection waits", "connections wait")
        found.append(f"{wait} in its accept queue until {whose} them up.")
    if actual.room and actual.waiting > actual.room:
        found.append(f"That queue is full ({actual.room}): the kernel drops who connects now, and has them try again.")
    open_now = actual.established + actual.waiting
    if not shared and believed.in_flight > open_now:
        there = f"only {counted(open_now, 'connection is', 'connections are')}" if open_now else "no connection is"
        found.append(f"The balancer counts {believed.in_flight} in flight, but {there} open.")
    return tuple(found)


if __name__ == "__main__":
    sys.stdout.write(published(tuple[Standing, ...], "An endpoint, believed and actual: cgilab endpoints --json"))
