"""What became of every request, counted where it happens.

Every accepted request ends in exactly one `Outcome`, so `accepted` is the sum of all outcomes and of what is in flight,
at every instant. Nothing here allocates while a request passes: integers are added to, histograms exist already.
"""

from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from math import floor
from operator import add
from typing import Final

from lab.core.histogram import SHORT, SHORTER, Histogram, bucket
from lab.core.snapshot import Totals
from lab.proxy.manager import Figures

WINDOW: Final = 10
"""Seconds over which rates and quantiles are taken."""


class Outcome(StrEnum):
    """How a request ended. The values are the names of the counters."""

    ANSWERED = "answered"
    """By a worker with any status, or by the gateway with 2xx or 4xx."""
    FAILED = "failed"
    """5xx made by the gateway, or an answer that broke off."""
    SHED = "shed"
    """503 by a limit."""
    ABANDONED = "abandoned"
    """The client left first."""


ANSWERED, FAILED, SHED, ABANDONED = Outcome
"""By name: on Python 3.11 each look-up in an enum costs as much as a call, and these happen with every request."""


class Counters:
    """Requests since the start. `accepted == answered + failed + shed + abandoned + in_flight`, always.

    To accept a request is to add to `accepted`: every request does so in its own place, without a call.
    """

    __slots__ = ("abandoned", "accepted", "answered", "failed", "retries", "shed", "tunnel_bytes", "tunnels")

    def __init__(self) -> None:
        self.accepted = self.retries = 0
        self.answered = self.failed = self.shed = self.abandoned = 0
        self.tunnels = self.tunnel_bytes = 0

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return self.accepted - self.answered - self.failed - self.shed - self.abandoned

    def end(self, outcome: Outcome) -> None:
        """A request ended."""
        if outcome is ANSWERED:
            self.answered += 1
        elif outcome is FAILED:
            self.failed += 1
        elif outcome is SHED:
            self.shed += 1
        else:
            self.abandoned += 1

    def totals(self, window: "Recent") -> Totals:
        """The counters as a value, with rate and quantiles of `window`."""
        return Totals(
            accepted=self.accepted,
            answered=self.answered,
            failed=self.failed,
            shed=self.shed,
            abandoned=self.abandoned,
            in_flight=self.in_flight,
            retries=self.retries,
            tunnels=self.tunnels,
            tunnel_bytes=self.tunnel_bytes,
            rps=window.rps,
            p50_ms=window.p50_ms,
            p95_ms=window.p95_ms,
            p99_ms=window.p99_ms,
        )


class Recent:
    """Rate (a second) and quantiles (milliseconds, None when there was nothing) of a stretch of time."""

    __slots__ = ("p50_ms", "p95_ms", "p99_ms", "rps")

    def __init__(self, passed: Histogram, seconds: float) -> None:
        self.rps = passed.total / max(seconds, 1.0)
        quantiles = passed.quantiles(0.5, 0.95, 0.99) if passed.total else [None] * 3
        self.p50_ms, self.p95_ms, self.p99_ms = (value and value * 1000 for value in quantiles)


class Latency:
    """A histogram since the start that also knows its last ten seconds, by the difference to a copy taken then.

    Call `mark` about once a second. `record` is the histogram's own: adding to a list.
    """

    __slots__ = ("_marks", "record", "total")

    def __init__(self, now: float) -> None:
        self.total = Histogram()
        self.record = self.total.record
        self._marks: deque[tuple[float, Histogram]] = deque([(now, Histogram())], maxlen=WINDOW + 1)

    def mark(self, now: float) -> None:
        """Remember what was counted until `now`. Where nothing was, no copy is made: most of a crowd is idle."""
        last = self._marks[-1][1]
        self._marks.append((now, last if last.total == self.total.total else self.total.copy()))

    def recent(self, now: float, *others: "Latency") -> Recent:
        """This window, with that of `others` merged in."""
        passed, since = self._passed(), self._marks[0][0]
        for other in others:
            passed.merge(other._passed())
            since = min(since, other._marks[0][0])
        return Recent(passed, now - since)

    def _passed(self) -> Histogram:
        first = self._marks[0][1]
        return self.total.since(first) if self.total.total > first.total else Histogram()


class Tally(Latency):
    """What passed at one place (a route, an app, a worker): durations with their stages, status classes, bytes.

    Most requests find a place and a connection at once, and most answers come in one piece. So a stage is recorded only
    for requests that had it, and what the others spent there, nothing, follows from the totals. This keeps four exact
    distributions for the price of one.
    """

    __slots__ = ("_connect", "_early", "_late", "_queue", "classes", "received", "sent")

    def __init__(self, now: float) -> None:
        super().__init__(now)
        self.classes = [0] * 10
        """Requests by the first digit of the status that the client was sent. 0: by none, because it broke off."""
        self.received = 0
        """Bytes of requests' bodies."""
        self.sent = 0
        """Bytes of responses' bodies."""
        self._queue: Histogram | None = None
        self._connect: Histogram | None = None
        self._early: Histogram | None = None
        """Of answers that came in pieces: until the head was there ..."""
        self._late: Histogram | None = None
        """... and until their end."""

    def stages(self, queued: float, connecting: float, first: float, took: float) -> None:
        """Record the stages, in seconds, of a request whose duration `took` was recorded. 0: it had no such stage."""
        if queued > 0:
            self._queue = self._queue or Histogram()
            self._queue.record(queued)
        if connecting > 0:
            self._connect = self._connect or Histogram()
            self._connect.record(connecting)
        if first > 0:
            self._early, self._late = self._early or Histogram(), self._late or Histogram()
            self._early.record(first)
            self._late.record(took)

    def figures(self, accepted: int, in_flight: int, failed: int = 0) -> Figures:
        """Everything, as a value."""
        return Figures(
            accepted=accepted,
            in_flight=in_flight,
            classes=tuple(self.classes[:6]),
            failed=failed,
            received=self.received,
            sent=self.sent,
            queue=self.queue,
            connect=self.connect,
            first_byte=self.first_byte,
            total=self.total.copy(),
        )

    @property
    def queue(self) -> Histogram:
        """How long requests waited for a place: a copy."""
        return self._with_zeros(self._queue)

    @property
    def connect(self) -> Histogram:
        """How long they waited for a connection: a copy."""
        return self._with_zeros(self._connect)

    @property
    def first_byte(self) -> Histogram:
        """From the request's acceptance to the head of its answer: a copy."""
        if self._early is None or self._late is None:
            return self.total.copy()
        found = self.total.since(self._late)
        found.merge(self._early)
        return found

    def absorb(self, other: "Tally") -> None:
        """Add all that `other` counted, as though it had been here long ago: the last ten seconds stay as they are."""
        for counted in {self.total, *(mark for _, mark in self._marks)}:
            counted.merge(other.total)
        self._add_stages(other)

    @classmethod
    def together(cls, tallies: Sequence["Tally"]) -> "Tally":
        """What several counted, as one; the only one of them itself."""
        if len(tallies) == 1:
            return tallies[0]
        merged = cls(min(tally._marks[0][0] for tally in tallies))
        for tally in tallies:
            merged.total.merge(tally.total)
            merged._marks[0][1].merge(tally._marks[0][1])
            merged._add_stages(tally)
        return merged

    def _add_stages(self, other: "Tally") -> None:
        """Everything but the durations."""
        self.classes = list(map(add, self.classes, other.classes))
        self.received += other.received
        self.sent += other.sent
        self._queue = _merged(self._queue, other._queue)
        self._connect = _merged(self._connect, other._connect)
        self._early = _merged(self._early, other._early)
        self._late = _merged(self._late, other._late)

    def _with_zeros(self, waits: Histogram | None) -> Histogram:
        found = Histogram() if waits is None else waits.copy()
        found.counts[0] += self.total.total - found.total
        found.total = self.total.total
        return found


def count(tallies: Sequence[Tally], took: float, status: int, received: int, sent: int) -> None:
    """Count a request that took `took` seconds at every place that it passed, with the bytes of its bodies."""
    us, kind = floor(took * 1e6), status // 100
    place = SHORT[us] if 0 <= us < SHORTER else bucket(took)
    for tally in tallies:
        total = tally.total
        total.counts[place] += 1
        total.total += 1
        total.sum += took
        tally.classes[kind] += 1
        if received:
            tally.received += received
        tally.sent += sent


def _merged(one: Histogram | None, other: Histogram | None) -> Histogram | None:
    if other is None:
        return one
    merged = other.copy()
    if one is not None:
        merged.merge(one)
    return merged
