"""How long answers take lately, as one number that rises at once and falls slowly: Finagle's peak EWMA.

A plain average needs many slow answers to notice a worker that has become slow, and by then they are waiting. This one
takes a slow answer for the truth at once, and forgets it exponentially: with further answers, and with time alone, so
that somebody tries again where nobody has been for a while.
"""

from math import exp

DECAY = 10.0
"""Seconds after which an answer counts for 1/e of what it did: Finagle's default."""


class PeakEwma:
    """One endpoint's figure, in seconds; 0.0 before the first answer."""

    __slots__ = ("_at", "_seconds")

    def __init__(self) -> None:
        self._seconds = self._at = 0.0

    def record(self, seconds: float, now: float) -> None:
        """An answer that took `seconds` came at the monotonic time `now`."""
        kept = exp((self._at - now) / DECAY) if self._seconds else 0.0
        faded = self._seconds * kept
        self._seconds = seconds if seconds > faded else faded + seconds * (1.0 - kept)
        self._at = now

    def at_least(self, seconds: float, now: float) -> None:
        """A request failed, or was given up, after `seconds`: it would have taken longer, if it had ever ended.

        So a quick failure is no praise, and one that came late is a warning.
        """
        if seconds > self.value(now):
            self._seconds, self._at = seconds, now

    def value(self, now: float) -> float:
        """What is left of it at `now`."""
        return self._seconds * exp((self._at - now) / DECAY)
