"""Passive health: whom requests themselves have shown to be ill. Pure: what happened and what time it is go in.

No check sees what requests see: a worker may answer its health path and fail all else. So an endpoint that fails so
many requests in a row, or fails clearly more than the others, is ejected: it gets nothing for a while, then another
chance. The rules are those of Envoy's outlier detection; times grow with each ejection and shrink while all is well.
"""

import math
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean, pstdev

from lab.core.model import OutlierSpec


class Record:
    """What is known of one endpoint."""

    __slots__ = ("bad", "ejections", "errors", "good", "rested", "until", "why")

    def __init__(self) -> None:
        self.errors = 0
        """Failures in a row."""
        self.good = self.bad = 0
        """Requests of this interval."""
        self.ejections = 0
        """How many ejections count when the next one's length is found."""
        self.rested = False
        """It was ejected in this interval."""
        self.until = -math.inf
        """While it is ejected: the monotonic time of its end."""
        self.why = ""
        """While it is ejected: the end of a sentence about it."""

    @property
    def ejected(self) -> bool:
        """It is to get nothing."""
        return self.until > -math.inf


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at the clock has changed."""

    ejected: tuple[Record, ...] = ()
    back: tuple[Record, ...] = ()
    """Their time is over."""


class Outliers:
    """The records of one app's endpoints. Every time is in monotonic seconds."""

    def __init__(self, spec: OutlierSpec, now: float) -> None:
        self.spec = spec
        self.records: list[Record] = []
        self._compare_at = now + spec.interval

    def apply(self, spec: OutlierSpec, now: float) -> None:
        """Follow new settings. Who is ejected stays so for as long as it was said."""
        self.spec = spec
        self._compare_at = min(self._compare_at, now + spec.interval)

    def add(self) -> Record:
        """An endpoint is new."""
        self.records.append(record := Record())
        return record

    def remove(self, record: Record) -> None:
        """It has left."""
        self.records.remove(record)

    @property
    def due(self) -> float:
        """When `look` is to be called, at the latest."""
        return min([self._compare_at, *(record.until for record in self.records if record.ejected)])

    def succeeded(self, record: Record) -> None:
        """It has answered a request."""
        record.errors = 0
        record.good += 1

    def failed(self, record: Record, now: float, why: str) -> bool:
        """It has failed one, for the reason `why`: one sentence. Whether it is ejected for this."""
        record.errors += 1
        record.bad += 1
        if not self.spec.consecutive_errors or record.errors < self.spec.consecutive_errors:
            return False
        many = f"{record.errors} requests in a row" if record.errors > 1 else "a request"
        return self._eject(record, now, f"failed {many}. The last one: {why}")

    def look(self, now: float) -> Looked:
        """Let those come back whose time is over; at the end of an interval, compare."""
        back = tuple(record for record in self.records if record.ejected and record.until <= now)
        for record in back:
            record.until, record.why, record.errors = -math.inf, "", 0
        if now < self._compare_at:
            return Looked(back=back)
        self._compare_at = now + self.spec.interval
        ejected = tuple(self._compare(now))
        for record in self.records:
            record.good = record.bad = 0
            record.ejections = max(0, record.ejections - (not record.rested))
            record.rested = record.ejected
        return Looked(ejected, back)

    def _compare(self, now: float) -> list[Record]:
        """Eject those whose success rate is too far below the mean. Nobody, when there is too little to compare."""
        spec = self.spec
        rates = {
            record: record.good / asked
            for record in self.records
            if (asked := record.good + record.bad) >= spec.min_requests
        }
        if not spec.success_rate_factor or len(rates) < spec.min_hosts:
            return []
        least = fmean(rates.values()) - spec.success_rate_factor * pstdev(rates.values())
        why = "answered {:.0%} of its requests, where at least {:.0%} was expected by the others' success"
        worst_first = sorted(rates.items(), key=itemgetter(1))
        return [
            record for record, rate in worst_first if rate < least and self._eject(record, now, why.format(rate, least))
        ]

    def _eject(self, record: Record, now: float, why: str) -> bool:
        """Eject it, unless too many are: requests have to go somewhere."""
        spec = self.spec
        out = sum(one.ejected for one in self.records)
        if record.ejected or (out + 1) * 100 > spec.max_ejected_percent * len(self.records):
            return False
        record.ejections += 1
        record.rested = True
        record.until = now + min(spec.base_ejection * record.ejections, spec.max_ejection)
        record.why = why
        return True
