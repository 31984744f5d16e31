"""Latencies in fixed memory: a log-linear histogram, as HdrHistogram has it.

Each power of two of microseconds is split into 32 equal buckets, so a bucket is at most 1/32 of its value wide and
its middle is at most 1.6 % away from any value in it. Recording is one addition into a list that exists already.
"""

from itertools import accumulate
from math import floor
from operator import add, sub
from typing import Self

_BITS = 5
_SUB = 1 << _BITS
_LIMIT = (1 << 27) - 1
"""The largest value kept apart, in microseconds (134 s). Larger ones are counted as this."""


def _index(us: int) -> int:
    shift = us.bit_length() - _BITS - 1
    return us if shift <= 0 else (shift << _BITS) + (us >> shift)


SIZE = _index(_LIMIT) + 1


SHORTER = 4096
"""Microseconds. What is shorter is looked up in `SHORT`."""

SHORT = [_index(us) for us in range(SHORTER)]
"""The places of short durations: to look one up takes half as long as to find it out."""


def bucket(seconds: float) -> int:
    """Where a duration is counted. Negative ones count as 0, those over 134 s as 134 s."""
    us = floor(seconds * 1e6)  # `int` takes longer: it is a type, which makes a tuple of what it is given
    return SHORT[us] if 0 <= us < SHORTER else _index(min(max(us, 0), _LIMIT))


def _middle(index: int) -> float:
    """The middle of a bucket, in microseconds."""
    if index < 2 * _SUB:
        return float(index)
    shift = (index >> _BITS) - 1
    low = (index - (shift << _BITS)) << shift
    return low + ((1 << shift) - 1) / 2


class Histogram:
    """Counts of durations. Quantiles are within 2 % of the true value."""

    __slots__ = ("counts", "sum", "total")

    def __init__(self) -> None:
        self.counts: list[int] = [0] * SIZE
        self.total = 0
        self.sum = 0.0
        """Seconds, of all durations together."""

    def record(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bucket(seconds)] += 1
        self.total += 1
        self.sum += seconds

    def merge(self, other: Self) -> None:
        """Add everything that `other` counted."""
        self.counts = list(map(add, self.counts, other.counts))
        self.total += other.total
        self.sum += other.sum

    def since(self, earlier: "Histogram") -> "Histogram":
        """What was counted after `earlier` was copied from this one."""
        difference = Histogram()
        difference.counts = list(map(sub, self.counts, earlier.counts))
        difference.total = self.total - earlier.total
        difference.sum = self.sum - earlier.sum
        return difference

    def copy(self) -> "Histogram":
        """An independent copy."""
        twin = Histogram()
        twin.counts = self.counts.copy()
        twin.total = self.total
        twin.sum = self.sum
        return twin

    def below(self, *bounds_us: int) -> list[int]:
        """How many durations were shorter than each of `bounds_us`, ascending powers of two of microseconds.

        Exact: the buckets end at powers of two.
        """
        running = [0, *accumulate(self.counts)]
        return [running[_index(bound)] for bound in bounds_us]

    def quantile(self, q: float) -> float | None:
        """The value, in seconds, that a share `q` (0 to 1) of all durations does not exceed; None when empty."""
        return self.quantiles(q)[0]

    def quantiles(self, *qs: float) -> list[float | None]:
        """Several quantiles in one pass, in the order asked."""
        if not self.total:
            return [None] * len(qs)
        ranks = sorted((max(1, -int(-q * self.total // 1)), place) for place, q in enumerate(qs))
        found: list[float | None] = [None] * len(qs)
        wanted = iter(ranks)
        rank, place = next(wanted)
        for index, running in enumerate(accumulate(self.counts)):
            while running >= rank:
                found[place] = _middle(index) / 1e6
                following = next(wanted, None)
                if following is None:
                    return found
                rank, place = following
        return found
