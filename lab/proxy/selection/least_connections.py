"""Least connections: whoever has the fewest requests open. Follows what requests cost without having to know it."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Generic

from lab.proxy.selection import C
from lab.wire.http1 import RequestHead

_load = attrgetter("in_flight", "chosen")


class LeastConnections(Generic[C]):
    """The endpoint with the fewest requests in flight; among equals the one whose last turn is longest ago."""

    def choose(self, endpoints: Sequence[C], request: RequestHead) -> C:
        return min(endpoints, key=_load)
