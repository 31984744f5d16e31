"""What must hold at every instant, as far as the engine can see it. The pool tells of its own part in its views, and
remembers that itself.

A breach may be over in a millisecond, and a screen looks five times a second: so one that was seen stays told a while.
"""

from collections.abc import Iterator

from lab.core.snapshot import Invariants, Totals
from lab.engine.endpoints import Endpoints
from lab.pool.manager import PoolView
from lab.proxy.manager import ProxyView

TOLD_S = 10.0
"""Seconds for which a breach is told after it was last seen."""


def breaches(pool: PoolView, proxy: ProxyView, endpoints: Endpoints) -> Iterator[str]:
    """Names of the fields of `Invariants` that do not hold now, of those that the engine sees."""
    if not (_conserved(proxy.totals) and _conserved(proxy.own)):
        yield "conserved"
    if pool.zombies:
        yield "no_zombies"
    if endpoints.strays(pool):
        yield "only_ready"


class Watch:
    """Remembers when which breach was last seen."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def look(self, now: float, broken: Iterator[str], pool: PoolView) -> Invariants:
        """What to tell at monotonic time `now`, when `broken` do not hold, and neither does what `pool` tells of."""
        self._seen.update(dict.fromkeys(broken, now))
        told = {name for name, at in self._seen.items() if now - at < TOLD_S}
        told.update(name for app in pool.apps for name in app.breaches)
        return Invariants(**{name: name not in told for name in Invariants.__struct_fields__})


def _conserved(totals: Totals) -> bool:
    ended = totals.answered + totals.failed + totals.shed + totals.abandoned
    return totals.accepted == ended + totals.in_flight
