"""First available: the endpoint with the lowest slot that has a place.

Everybody else spreads load; this one packs it. The workers at the end of the pool stay idle, so that `dynamic` can stop
them, their memory can be given back, and the caches of those in front stay warm. HAProxy's `balance first` is for that.
It makes sense only where a worker has few places (`concurrency`): without an end to them the first one gets everything.
"""

from collections.abc import Sequence
from operator import attrgetter

from lab.proxy.selection import C, Request

_slot = attrgetter("slot")


class FirstAvailable:
    """The lowest slot among those that may be chosen."""

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        return min(endpoints, key=_slot)
