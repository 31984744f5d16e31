"""Told once, and then not for a while: what happens with every request must not wash everything else out of the events.

Whoever keeps silent says later how often it did, so that nothing is hidden.
"""

import math
from typing import Final

_TELL_EVERY: Final = 1.0
"""Seconds between two events of one kind."""


class Seldom:
    """One kind of news. Time is handed in, as monotonic seconds."""

    def __init__(self) -> None:
        self._quiet_until = -math.inf
        self._untold = 0

    def more(self, now: float) -> str | None:
        """None while there is nothing to be told; else what is to be added to it."""
        if now < self._quiet_until:
            self._untold += 1
            return None
        untold, self._untold = self._untold, 0
        self._quiet_until = now + _TELL_EVERY
        return f" ({untold} more like this were not told)" if untold else ""
