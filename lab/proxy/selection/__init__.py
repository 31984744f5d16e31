"""Selection policies, one a file. Each is an entry point of the group `cgilab.selection`.

A policy chooses among the endpoints that may take a request now. Most keep no list of their own: what there is to
choose from changes with every worker that dies, and all that they need stands on the candidates. A student's own policy
is a Python file with a class `Policy` that has `choose`, and nothing else: `written.py` loads it.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """What a policy may know of an endpoint."""

    @property
    def slot(self) -> int:
        """Number of its worker's place in the pool: what a successor inherits."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests open to it now."""
        ...

    @property
    def chosen(self) -> int:
        """Number of the choice that last fell on it, counted over the upstream; 0 for never. The smallest waits
        longest."""
        ...

    @property
    def weight(self) -> float:
        """Its share beside the others': 1 unless `weights` says more; less while `slow_start` has it begin gently."""
        ...

    @property
    def ewma(self) -> float:
        """Seconds that its answers took lately, quick to rise and slow to fall; 0.0 before the first. Measured only
        for a policy with `measures = True`."""
        ...


C = TypeVar("C", bound=Candidate)


class Request(Protocol[C]):
    """What a policy may know of the request. It is good for this one call and not to be kept."""

    @property
    def method(self) -> str:
        """Such as GET."""
        ...

    @property
    def path(self) -> str:
        """Without the query."""
        ...

    @property
    def client(self) -> str:
        """The address that it came from, without the port."""
        ...

    @property
    def everyone(self) -> Sequence[C]:
        """All endpoints of the app by slot, also those that cannot take a request now. Another sequence when one has
        come or gone, the same until then."""
        ...

    def offers(self, endpoint: C) -> bool:
        """Whether this one of `everyone` may be chosen."""
        ...

    def header(self, name: str) -> str | None:
        """The value of a field; None when it is not there."""
        ...

    def cookie(self, name: str) -> str | None:
        """The value of a cookie; None when it is not there."""
        ...

    def set_cookie(self, cookie: str | None) -> None:
        """Have the answer carry this as its Set-Cookie field; None for none."""
        ...


class SelectionPolicy(Protocol[C]):
    """Constructed without arguments, once for each upstream.

    A policy may have more than `choose`; what it does not have costs nothing:
    `configure(spec)` tells the `UpstreamSpec` at first and after each change;
    `offered(endpoint)` is called when one has a place for a request, new or again, `withdrawn(endpoint)` when it has
    none any more or has left;
    `assigned(endpoint, request)` is called when a request goes to an endpoint, whether it was chosen now or came from
    the queue to the first that was free;
    `home(request)` names the endpoint to which a request belongs, if there is one: it goes there, or waits there for a
    place, and `choose` is not asked;
    `measures = True` asks for `Candidate.ewma`.
    """

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        """One of `endpoints`, of which there are at least two, in no order. The sequence is not to be kept."""
        ...
