"""What happens when more clients are connected than `proxy.limits.connections` allows.

Connections that have been idle for longest are closed in favour of the new one, as nginx does when it runs out of them
(`ngx_drain_connections`). When all are busy, the new client may still ask once, so that it is told why, and so that
`/-/` answers; with too many of those, the next is told so without being asked what it wants.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.downstream import Downstream

SURPLUS: Final = 64
"""Connections beyond the limit that may ask once."""


class Crowd:
    """The clients of a proxy that has a limit. Nobody keeps one for a proxy that has none."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._idle: dict[Downstream, None] = {}
        """Idle for longest first."""

    def came(self, downstream: "Downstream", connections: int) -> bool:
        """A client has connected, and with it there are so many `connections`. False: it cannot be heard."""
        while connections > self.limit and self._idle:
            oldest = next(iter(self._idle))
            self.left(oldest)
            oldest.make_room()
            connections -= 1
        downstream.surplus = connections > self.limit
        if not downstream.surplus:
            self._idle[downstream] = None
        return connections <= self.limit + SURPLUS

    def rests(self, downstream: "Downstream") -> None:
        """It waits for its client's next request from now on."""
        self._idle[downstream] = None

    def left(self, downstream: "Downstream") -> None:
        """It has something to do, or has gone."""
        self._idle.pop(downstream, None)
