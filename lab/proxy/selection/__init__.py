"""Selection policies, one a file. Each is an entry point of the group `cgilab.selection`.

A policy chooses among the endpoints that may take a request now. It keeps no list of its own: what it may choose from
changes with every worker that dies, so all it needs stands on the candidates.
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


class SelectionPolicy(Protocol):
    """Constructed without arguments, once for each upstream."""

    def choose(self, endpoints: Sequence[C], request: RequestHead) -> C:
        """One of `endpoints`, never empty. Ties go to the one that was chosen longest ago, so that they rotate."""
        ...
