"""Round robin: everyone in turn, whatever it costs them.

It knows nothing of the endpoints, and that is its strength: what it does not look at cannot mislead it. nginx, HAProxy
and Envoy begin with it. It is fair in numbers and blind to everything else: one slow worker among ten gets a tenth of
the requests, and keeps them all waiting. Here the ring is a line: who is chosen goes to its end, and who was full joins
at the end when there is a place again. So a choice takes as long among a thousand endpoints as among ten.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic

from lab.proxy.selection import C, Request


class RoundRobin(Generic[C]):
    """The endpoint that stands first in line. One that is new has the next turn, and then waits like the rest."""

    def __init__(self) -> None:
        self._line: OrderedDict[C, None] = OrderedDict()

    def offered(self, endpoint: C) -> None:
        first = next(iter(self._line), endpoint)
        self._line[endpoint] = None
        if first.chosen and not endpoint.chosen:
            self._line.move_to_end(endpoint, last=False)

    def withdrawn(self, endpoint: C) -> None:
        del self._line[endpoint]

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        line = self._line
        first = next(iter(line)) if len(endpoints) == len(line) else self._first_of(endpoints)
        line.move_to_end(first)
        return first

    def _first_of(self, endpoints: Sequence[C]) -> C:
        """Who stands first of these: the request has been to the others."""
        return next(one for one in self._line if one in endpoints)
