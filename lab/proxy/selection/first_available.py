"""First available: the endpoint with the lowest slot that has a place.

Everybody else spreads load; this one packs it. The workers at the end of the pool stay idle, so that `dynamic` can stop
them, their memory can be given back, and the caches of those in front stay warm. HAProxy's `balance first` is for that.
It makes sense only where a worker has few places (`concurrency`): without an end to them the first one gets everything.
Those with a place stand in a line by slot, into which one is put by bisection: a choice looks at its head alone, and
costs 1.5 us among 10 and 2.5 among 1,000 (tests/bench/selection.py, on a busy machine).
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from operator import attrgetter
from typing import Generic

from lab.proxy.selection import C, Request

_slot = attrgetter("slot")


class FirstAvailable(Generic[C]):
    """The lowest slot among those that may be chosen."""

    def __init__(self) -> None:
        self._line: list[C] = []
        """Those with a place, by slot."""

    def offered(self, endpoint: C) -> None:
        insort(self._line, endpoint, key=_slot)

    def withdrawn(self, endpoint: C) -> None:
        line = self._line
        at = bisect_left(line, endpoint.slot, key=_slot)
        while line[at] is not endpoint:  # while a worker is replaced, two may have the same slot
            at += 1
        del line[at]

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        return next((one for one in self._line if request.offers(one)), endpoints[0])
