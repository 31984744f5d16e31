"""Consistent hashing with bounded load: equal keys go to the same endpoint, and nobody gets far more than the rest.

A worker that has seen a key before may still have what belongs to it: a cache, a file, a session. `hash(key) % n` would
do until n changes, and then nearly every key moves. On a ring (Karger et al., 1997) each endpoint owns the stretches
before its points: when one of n leaves, its own keys move, about 1/n of them, and no others. What the ring is blind to
is fame: one key that everybody asks for drowns its endpoint. So no endpoint may have more than `hash.factor` times the
average of requests in flight; what is too much goes on along the ring (Mirrokni, Thorup, Zadimoghaddam, "Consistent
Hashing with Bounded Loads", Google, 2016; HAProxy's `hash-balance-factor`). Weights do not count here.

The ring is made anew when an endpoint comes or goes. A choice adds up the requests in flight of all of them.
"""

import math
from bisect import bisect
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from operator import itemgetter
from typing import Generic

from lab.proxy.manager import UpstreamSpec
from lab.proxy.selection import C, Request

_POINTS = 64
"""Points of each endpoint on the ring: the more, the more even their stretches (a deviation of 1/8 with 64)."""


class ConsistentHash(Generic[C]):
    """The first endpoint along the ring, from the key's place on, that is offered and within its bound."""

    def __init__(self) -> None:
        self._everyone: Sequence[C] | None = None
        self._places: list[int] = []
        self._owners: list[C] = []
        self._factor = 1.25
        self._key, self._name = "client", ""

    def configure(self, spec: UpstreamSpec) -> None:
        self._factor = spec.hash.factor
        self._key, _, self._name = spec.hash.key.partition(":")

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        if request.everyone is not self._everyone:
            self._everyone = request.everyone
            ring = sorted(((place, one) for one in request.everyone for place in _points(one.slot)), key=itemgetter(0))
            self._places = [place for place, _ in ring]
            self._owners = [owner for _, owner in ring]
        bound = self._bound(request.everyone)
        start = bisect(self._places, _place(self._key_of(request)))
        owners = self._owners
        fallback: C | None = None
        for at in chain(range(start, len(owners)), range(start)):
            owner = owners[at]
            if request.offers(owner):
                if owner.in_flight < bound:
                    return owner
                fallback = fallback or owner
        return fallback or endpoints[0]

    def _bound(self, everyone: Sequence[C]) -> int:
        """The most requests that one may have with the next one: `factor` times the average, rounded up."""
        return math.ceil(self._factor * (sum(one.in_flight for one in everyone) + 1) / len(everyone))

    def _key_of(self, request: Request[C]) -> str:
        """What is hashed. A request that lacks it is told apart by its client."""
        match self._key:
            case "path":
                return request.path
            case "header":
                return request.header(self._name) or request.client
            case "cookie":
                return request.cookie(self._name) or request.client
            case _:
                return request.client


def _place(key: str) -> int:
    """Where a key lies on the ring: the same in every process, which Python's own `hash` is not."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest())


@lru_cache(maxsize=4096)
def _points(slot: int) -> tuple[int, ...]:
    """Where a slot lies on the ring, again and again. A successor inherits them, and with them the keys."""
    return tuple(_place(f"{slot}/{point}") for point in range(_POINTS))
