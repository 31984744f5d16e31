"""Round robin: everyone in turn, whatever it costs them. Fair in numbers, blind to how long requests take."""

from collections.abc import Sequence
from operator import attrgetter

from lab.proxy.selection import C
from lab.wire.http1 import RequestHead

_turn = attrgetter("chosen")


class RoundRobin:
    """The endpoint whose last turn is longest ago. One that joins has the next turn, and then waits like the rest."""

    def choose(self, endpoints: Sequence[C], request: RequestHead) -> C:
        return min(endpoints, key=_turn)
