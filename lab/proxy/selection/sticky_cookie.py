"""Sticky cookie: a client stays with the worker that served it first.

A worker that keeps sessions in its own memory needs its clients back. So the first answer brings a cookie that names
the worker's slot, and the next request with it goes there. Apache's mod_proxy_balancer and HAProxy's `cookie insert` do
the same. When the worker is gone, its clients move, and are told their new home in the same way: what it kept in memory
is lost, which is the blind spot of the whole idea. The other one is load: a client waits for its home while others are
idle. Only a home that is held back for its health, or refuses connections, lends its clients out for a request.

The cookie's value means nothing to anybody else: 128 bits of a keyed hash, with a key that is drawn anew for each lab.
So nobody can count the workers with it or name one that was not given to them, and what is not known is ignored.

Who has a home is looked up. Only for who has none all endpoints are looked at, as by least connections: such a choice,
with the cookie that is given, takes 7 us among 10 and 90 among 1,000 (tests/bench/selection.py, on a busy machine).
"""

import secrets
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Generic

from lab.proxy.manager import UpstreamSpec
from lab.proxy.selection import C, Request
from lab.proxy.selection.least_connections import LeastConnections


class StickyCookie(Generic[C]):
    """The endpoint that the cookie names; without one that with the least load."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._token = lru_cache(maxsize=1024)(self._made)
        self._everyone: Sequence[C] | None = None
        self._homes: dict[str, C] = {}
        """All endpoints by the cookie that names them."""
        self._cookie, self._attributes = "", ""
        self._homeless = LeastConnections()
        """Finds a home for those who have none."""

    def configure(self, spec: UpstreamSpec) -> None:
        self._homeless.configure(spec)
        self._cookie = f"cgilab-{spec.app}"
        path = "/" if ";" in spec.route else spec.route
        self._attributes = f"; Path={path}; HttpOnly; SameSite=Lax"

    def choose(self, endpoints: Sequence[C], request: Request[C]) -> C:
        return self._homeless.choose(endpoints, request)

    def assigned(self, endpoint: C, request: Request[C]) -> None:
        homeless = self.home(request) is None
        request.set_cookie(f"{self._cookie}={self._token(endpoint.slot)}{self._attributes}" if homeless else None)

    def home(self, request: Request[C]) -> C | None:
        if request.everyone is not self._everyone:
            self._everyone = request.everyone
            self._homes = {self._token(one.slot): one for one in request.everyone}
        return self._homes.get(request.cookie(self._cookie) or "")

    def _made(self, slot: int) -> str:
        return blake2b(str(slot).encode(), key=self._secret, digest_size=16).hexdigest()
