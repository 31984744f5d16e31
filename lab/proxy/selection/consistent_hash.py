"""Consistent hashing with bounded load: equal keys go to the same endpoint, and nobody gets far more than the rest.

A worker that has seen a key before may still have what belongs to it: a cache, a file, a session. `hash(key) % n` would
do until n changes, and then nearly every key moves. On a ring (Karger et al., 1997) each endpoint owns the stretches
before its points: when one of n leaves, its own keys move, about 1/n of them, and no others. What the ring is blind to
is fame: one key that everybody asks for drowns its endpoint. So no endpoint may have more than `hash.factor` times the
average of requests in flight; what is too much goes on along the ring (Mirrokni, Thorup, Zadimoghaddam, "Consistent
Hashing with Bounded Loads", Google, 2016; HAProxy's `hash-balance-factor`). Weights do not count here.

A choice adds up the requests in flight of all endpoints, so it costs more with each of them: 3 us among 10, 25 among
1,000 (tests/bench/selection.py, on a busy machine).
"""

import math
import struct
from bisect import bisect, bisect_left
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from typing import Generic

from lab.proxy.manager import UpstreamSpec
from lab.proxy.selection import C, Request

_POINTS = 64
"""Points of each endpoint on the ring: the more, the more even their stretches (a deviation of 1/8 with 64)."""


class ConsistentHash(Generic[C]):
    """The first endpoint along the ring, from the key's place on, that is offered and within its bound."""

    def __init__(self) -> None:
        self._everyone: Sequence[C] = ()
        self._by_slot: dict[int, C] = {}
        self._ring: list[int] = []
        """All places on the ring, in order."""
        self._slots: dict[int, int] = {}
        """Whose each place is."""
        self._factor = 1.25
        self._key, self._name = "client", ""

    def configure(self, spec: UpstreamSpec) -> None:
        self._factor = spec.hash.factor
        self._key, _, self._name = spec.hash.key.partition(":")

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        if request.everyone is not self._everyone:
            self._follow(request.everyone)
        bound = self._bound(request.everyone)
        ring, slots, by_slot = self._ring, self._slots, self._by_slot
        start = bisect(ring, _place(self._key_of(request)))
        fallback: C | None = None
        for at in chain(range(start, len(ring)), range(start)):
            owner = by_slot[slots[ring[at]]]
            if request.offers(owner):
                if owner.in_flight < bound:
                    return owner
                fallback = fallback or owner
        return fallback or endpoints[0]

    def _follow(self, everyone: Sequence[C]) -> None:
        """Take the points of who has gone out of the ring, and put in those of who has come."""
        before, self._everyone = self._by_slot, everyone
        self._by_slot = {one.slot: one for one in everyone}
        for slot in before.keys() - self._by_slot.keys():
            for place in _points(slot):
                del self._ring[bisect_left(self._ring, place)]
        for slot in self._by_slot.keys() - before.keys():
            self._ring += _points(slot)
            self._slots.update(dict.fromkeys(_points(slot), slot))
        self._ring.sort()  # quick, since all but the end is in order

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
    hashes = (blake2b(f"{slot}/{number}".encode(), digest_size=64).digest() for number in range(_POINTS // 8))
    return tuple(chain.from_iterable(struct.iter_unpack(">Q", b"".join(hashes))))
