"""Taking turns by weight: which of several gets the next request, so that everybody's share is exact.

This is nginx's smooth weighted round robin (ngx_http_upstream_round_robin.c): with each request everybody gains its
weight, who has most is chosen and pays what all gained together. Of 5, 1 and 1 it makes `a a b a c a a`, not five in a
row, and after as many requests as the weights sum up to each has had exactly its part. No chance is involved.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Weighted(Protocol):
    """Somebody who takes turns."""

    weight: int
    credit: int
    """What it has gained and not yet paid; 0 at first."""


W = TypeVar("W", bound=Weighted)


def next_turn(those: Iterable[W]) -> W | None:
    """Whose turn it is among `those`; None when none of them has a weight. Equal credit goes to who stands first."""
    best: W | None = None
    gained = 0
    for one in those:
        if one.weight:
            one.credit += one.weight
            gained += one.weight
            if best is None or one.credit > best.credit:
                best = one
    if best is not None:
        best.credit -= gained
    return best
