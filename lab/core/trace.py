"""What happened to one request, as one immutable value: the answer to "why was this one slow?".

`cgilab trace ID --json` is this value, encoded. Its shape is published as trace.schema.json, which
`python -m lab.core.trace` prints. Seconds are seconds, sizes are bytes.
"""

import sys
from enum import StrEnum

import msgspec

from lab.core.schema import published


class Why(StrEnum):
    """Why a trace was kept."""

    SLOW = "slow"
    """It took at least as long as the proxy's setting `slow` says."""
    FAILED = "failed"
    """The gateway answered 5xx in a worker's place, or the answer broke off."""
    SHED = "shed"
    """A limit refused it."""
    RETRIED = "retried"
    """It was tried more than once."""
    SAMPLED = "sampled"
    """One of `trace_sample` requests is kept, whatever becomes of it."""
    TUNNEL = "tunnelled"
    """It opened a tunnel (a WebSocket), and `tunnel` tells what became of that."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try to have a worker answer."""

    worker: str
    """As people name it: `search/2`."""
    endpoint: str
    pid: int | None
    failure: str = ""
    """Why it came to nothing; empty for the one that answered."""
    seconds: float | None = None
    """How long it took; None where only the sum over all attempts is known."""


class Tunnelled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a tunnel that a request opened. While it is open, nothing is known."""

    seconds: float | None = None
    """How long it was open; None while it is."""
    from_client: int = 0
    """Bytes that it carried from the client to the worker ..."""
    from_worker: int = 0
    """... and from the worker to the client."""
    ended_by: str = ""
    """client, worker or gateway: whoever hung up first, or broke it. Empty while it is open."""
    why: str = ""
    """The same as the end of a sentence: `the client closed it`."""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """One request from its acceptance to its end. Its six stages together are `total_s`.

    Without a retry they follow one another; with one, each is the sum over all attempts.
    """

    id: str
    """What the client was told as X-Request-Id, if it was told."""
    at: float
    """Seconds since 1970-01-01 UTC when its head was there."""
    own: bool
    """The lab sent it itself."""
    client: str
    method: str
    target: str
    """As the client sent it; its route may have rewritten it."""
    route: str
    """Empty when none matched."""
    app: str
    """Empty when no app had charge of it."""
    status: int
    """What the client was sent; 0 when it was sent nothing."""
    outcome: str
    """answered, failed, shed or abandoned."""
    kept: tuple[Why, ...]
    prepare_s: float
    """With the gateway: until a body that has to be here first was, a file was looked up, or it was answered here."""
    queue_s: float
    """Waiting for a place at a worker."""
    connect_s: float
    """Waiting for a connection to it, those that came to nothing included."""
    tried_s: float
    """At workers that had it and failed it, before others were asked."""
    worker_s: float
    """From there to the head of its answer, or until it was given up."""
    transfer_s: float
    """From the head of the answer to its end."""
    total_s: float
    received: int
    """Bytes of the request's body."""
    sent: int
    """Bytes of the answer's body."""
    attempts: tuple[Attempt, ...] = ()
    """The last one is who answered, unless all failed."""
    detail: str = ""
    """What the gateway said, where it answered itself."""
    tunnel: Tunnelled | None = None
    """None for a request that opened none."""


if __name__ == "__main__":
    sys.stdout.write(published(Trace, "What happened to one request: cgilab trace ID --json"))
