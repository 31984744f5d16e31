"""Two choices: draw two endpoints, take the one with fewer requests open.

One look at a second candidate brings most of what looking at all of them would: the fullest of n endpoints has about
log log n requests more than the average instead of log n / log log n (Mitzenmacher, "The Power of Two Choices in
Randomized Load Balancing", 1996). And it costs the same among a thousand endpoints as among ten. Envoy's LEAST_REQUEST
and nginx's `random two` do it. Like least connections it is blind to an endpoint that is free because it fails fast.
"""

import random
from collections.abc import Callable, Sequence

from lab.proxy.selection import C, Request


def two(endpoints: Sequence[C], draw: Callable[[], float]) -> tuple[C, C]:
    """Two different ones of at least two, each pair equally likely."""
    first = int(draw() * len(endpoints))
    second = int(draw() * (len(endpoints) - 1))
    return endpoints[first], endpoints[second + (second >= first)]


class TwoChoices:
    """The one of two with less load for its weight; between equals the one whose last turn is longer ago."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        one, other = two(endpoints, self._draw)
        here, there = (one.in_flight + 1) / one.weight, (other.in_flight + 1) / other.weight
        if here == there:
            return one if one.chosen < other.chosen else other
        return one if here < there else other
