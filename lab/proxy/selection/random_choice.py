"""Random: anyone, by the luck of the draw.

Several balancers that know nothing of each other do not march in step this way, as round robins do that began at the
same endpoint; that is why HAProxy and Envoy have it. The price is unevenness: of n requests thrown at n endpoints, some
endpoint gets about log n / log log n of them (Raab and Steger, "Balls into Bins", 1998). Two choices instead of one
mend nearly all of that: see two_choices.py.
"""

import random
from collections.abc import Callable, Sequence

from lab.proxy.manager import UpstreamSpec
from lab.proxy.selection import C, Request

_TRIES = 16
"""Draws by rejection before all candidates are weighed: those that are heavy may be full."""


class RandomChoice:
    """Each endpoint with the probability of its weight."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._heaviest = 1.0

    def configure(self, spec: UpstreamSpec) -> None:
        self._heaviest = float(max(spec.weights, default=1))

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        draw, heaviest = self._draw, self._heaviest
        for _ in range(_TRIES):
            one = endpoints[int(draw() * len(endpoints))]
            if one.weight >= heaviest or draw() * heaviest < one.weight:
                return one
        left = draw() * sum(one.weight for one in endpoints)
        for one in endpoints:
            left -= one.weight
            if left < 0:
                return one
        return endpoints[-1]
