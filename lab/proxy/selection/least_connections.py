"""Least connections: whoever has the fewest requests open.

A request that takes long keeps its place in the count for as long as it lasts, so this follows what requests cost
without having to know it. It comes from the Linux Virtual Server (1998), and nginx calls it least_conn. It is blind to
how fast an endpoint fails: one that answers 500 at once is always free, and gets everything. And it looks at every
endpoint for each choice: 2 us among 10, 80 to 100 among 1,000 (tests/bench/selection.py, on a busy machine). Where that
is too much, two_choices.py comes close in 1.
"""

from collections.abc import Sequence
from operator import attrgetter

from lab.proxy.manager import UpstreamSpec
from lab.proxy.selection import C, Candidate, Request

_count = attrgetter("in_flight", "chosen")


def load(endpoint: Candidate) -> tuple[float, int]:
    """What an endpoint would have to do for its weight with one request more, as Envoy reckons; then its last turn."""
    return (endpoint.in_flight + 1) / endpoint.weight, endpoint.chosen


class LeastConnections:
    """The endpoint with the least load; among equals the one whose last turn is longest ago.

    With weights the lightest get nothing while the heaviest are idle: a weight of 3 is worth two requests in flight.
    """

    def __init__(self) -> None:
        self._weighs = False

    def configure(self, spec: UpstreamSpec) -> None:
        self._weighs = bool(spec.weights or spec.slow_start)

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        return min(endpoints, key=load if self._weighs else _count)
