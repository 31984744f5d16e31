"""Rate limits: how many requests a second an app takes in all, and from one client. Pure: time goes in, waits come out.

A token bucket holds `burst` tokens, gains `rate` a second, and each request takes one. GCRA (ITU-T I.371) keeps one
number instead of tokens and a time: the moment at which the bucket will be full again. With integers (nanoseconds)
nothing drifts, and what is left to wait is a subtraction.

Clients are kept by address, an IPv6 one by its /64, since whoever has one address there has all of them. The table is
bounded: the client that asked longest ago is forgotten first, also when it was refused. To be forgiven a burst by that,
a client would need as many other addresses to ask from in between as the table has room for, and each of those
has a burst of its own anyway: eviction gives nothing that the addresses do not give. The other way, to refuse newcomers
while the table is full, would let the same crowd lock everybody else out.
"""

import ipaddress
from collections import OrderedDict
from typing import Final

from lab.core.model import RateLimit

CLIENTS: Final = 16_384
"""Clients that are remembered: about 3 MB when all of them are there."""

_SECOND: Final = 1_000_000_000


class RateLimiter:
    """The buckets of one app. Nothing is forgotten when its settings change."""

    __slots__ = ("_clients", "_everybody", "_room", "spec")

    def __init__(self, spec: RateLimit, room: int = CLIENTS) -> None:
        self.spec = spec
        self._everybody = 0
        self._clients: OrderedDict[str, int] = OrderedDict()
        self._room = room

    def __len__(self) -> int:
        """How many clients it remembers."""
        return len(self._clients)

    def take(self, address: str, now: float) -> tuple[float, bool]:
        """Let a request at monotonic time `now` through, or tell how many seconds it comes too early.

        The second value says whose bucket is empty: the client's (True) or the app's. 0 seconds: it may pass. One that
        may not takes no token, from either bucket.
        """
        spec, at = self.spec, int(now * _SECOND)
        everybody, early = self._everybody, 0
        client, his, his_early = "", 0, 0
        if spec.rate:
            everybody, early = _later(everybody, at, spec.rate, spec.burst)
        if spec.per_client_rate:
            client = prefix(address)
            before = self._remember(client)
            his, his_early = _later(before, at, spec.per_client_rate, spec.per_client_burst)
        if early > 0 or his_early > 0:
            return max(early, his_early) / _SECOND, his_early >= early
        self._everybody = everybody
        if spec.per_client_rate:
            self._clients[client] = his
        return 0.0, False

    def _remember(self, client: str) -> int:
        """When this client's bucket is full; it asked last now."""
        clients = self._clients
        full_at = clients.get(client)
        if full_at is None:
            clients[client] = full_at = 0
            if len(clients) > self._room:
                clients.popitem(last=False)
        else:
            clients.move_to_end(client)
        return full_at


def _later(full_at: int, now: int, rate: float, burst: int) -> tuple[int, int]:
    """When the bucket will be full if a token is taken now, and how long one has to wait for it, in nanoseconds."""
    each = int(_SECOND / rate)
    after = max(full_at, now) + each
    return after, after - now - burst * each


def prefix(address: str) -> str:
    """What stands for the client: its IPv4 address, also where it is written as IPv6, or the /64 of its IPv6 one."""
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
