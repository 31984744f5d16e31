"""Peak EWMA: draw two endpoints, take the one where a request would wait less by what was measured lately.

Counting requests takes a slow endpoint for a busy one only when its requests have piled up already. This one knows how
long answers took: an average that forgets exponentially, rises at once to a peak and falls slowly, times the requests
that are open. One slow answer is enough to be avoided, and when time has made the peak fade, a request tries again.
From Twitter's Finagle (PeakEwma.scala); linkerd has it as its default. As there it compares two that were drawn: to
look at all would cost more with every endpoint, and would send everybody at once to the same best one.
It is blind to what an answer says: 500 in a millisecond is a quick answer.
"""

import random
from collections.abc import Callable, Sequence

from lab.proxy.selection import C, Candidate, Request
from lab.proxy.selection.two_choices import two

_UNKNOWN = 1.0
"""Seconds that are assumed of an endpoint that has a request and has never answered one: wait and see."""


def cost(endpoint: Candidate) -> float:
    """Seconds that a request might take there for its weight, those before it included."""
    seconds = endpoint.ewma
    if not seconds and endpoint.in_flight:
        seconds = _UNKNOWN
    return seconds * (endpoint.in_flight + 1) / endpoint.weight


class PeakEwma:
    """The cheaper of two; between equals the one whose last turn is longer ago."""

    measures = True

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        one, other = two(endpoints, self._draw)
        here, there = cost(one), cost(other)
        if here == there:
            return one if one.chosen < other.chosen else other
        return one if here < there else other
