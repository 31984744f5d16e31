"""The traces that are kept: which, how many, and for how long.

Every request has an identity; only those that somebody will ask about have a trace that outlives them. Each reason has
a ring of its own, so that a flood of refused requests does not wash away the one slow request of this morning, and a
bounded share of each second, so that explaining a flood does not make it worse.
"""

import secrets
from collections import Counter, deque
from collections.abc import Iterator
from typing import Final

from lab.core.trace import Trace, Why

KEPT: Final = 200
"""Traces that are kept for each reason: some 0.3 MB."""

A_SECOND: Final = 50
"""The most that are kept for one reason in one second."""


class Traces:
    """The last traces of each kind. Time is handed in, as monotonic seconds."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(3)
        self._kept: dict[Why, deque[Trace]] = {why: deque(maxlen=KEPT) for why in Why}
        self._second = 0
        self._share: Counter[Why] = Counter()

    def identity(self, number: int, own: bool) -> str:
        """What a request is called: `7f3a91-1c2`. The lab's own requests have numbers of their own."""
        return self.pattern(own) % number

    def pattern(self, own: bool) -> str:
        """The same with `%x` in the place of the number."""
        return f"{self._prefix}-own-%x" if own else f"{self._prefix}-%x"

    def wanted(self, reasons: tuple[Why, ...], now: float) -> bool:
        """Whether there is room in this second for one of these `reasons`; then it is taken."""
        if int(now) != self._second:
            self._second = int(now)
            self._share.clear()
        if not any(self._share[why] < A_SECOND for why in reasons):
            return False
        self._share.update(reasons)
        return True

    def keep(self, trace: Trace) -> None:
        """Keep it under each of its reasons."""
        for why in trace.kept:
            self._kept[why].append(trace)

    def amend(self, before: Trace, after: Trace) -> None:
        """Put what is known by now in the place of `before`, wherever that is still kept."""
        for traces in self._kept.values():
            for place, trace in enumerate(traces):
                if trace is before:
                    traces[place] = after

    def read(self, identity: str | None = None, why: Why | None = None, limit: int = 20) -> tuple[Trace, ...]:
        """The newest `limit` traces, newest first: all, the one called `identity`, or those kept for one reason."""
        found = {id(trace): trace for trace in self._of(why) if identity in (None, trace.id)}
        return tuple(sorted(found.values(), key=lambda trace: -trace.at - trace.total_s)[: max(limit, 0)])

    def _of(self, why: Why | None) -> Iterator[Trace]:
        for reason, traces in self._kept.items():
            if why in (None, reason):
                yield from traces
