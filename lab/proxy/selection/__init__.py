"""Selection policies, one a file. Each is an entry point of the group `cgilab.selection`.

A policy chooses among the endpoints that may take a request now. Most keep no list of their own: what there is to
choose from changes with every worker that dies, and all that they need stands on the candidates.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from lab.wire.http1 import RequestHead


class Candidate(Protocol):
    """What a policy may know of an endpoint."""

    in_flight: int
    """Requests open to it now."""
    chosen: int
    """Number of the choice that last fell on it, counted over the upstream; 0 for never. The smallest waits longest."""


C = TypeVar("C", bound=Candidate)


class SelectionPolicy(Protocol[C]):
    """Constructed without arguments, once for each upstream.

    A policy that remembers something of endpoints may have further methods: `offered(endpoint)` is called when one has
    a place for a request, new or again, and `withdrawn(endpoint)` when it has none any more or has left.
    """

    def choose(self, endpoints: Sequence[C], request: RequestHead) -> C:
        """One of `endpoints`: never empty, in no order, and not to be kept: it changes with the next request."""
        ...
