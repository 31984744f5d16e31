"""What a load run measured, in one schema for every generator: reports in, samples and a final result out.

A generator reports counts since its start and latencies since its previous report. Rates and percentiles are made here,
from differences between reports, so that they mean the same whichever generator ran.
"""

import sys
from collections import deque
from enum import StrEnum

import msgspec

from lab.core.histogram import Histogram
from lab.core.schema import published
from lab.core.spelling import counted
from lab.load.profiles import Profile, Shape

BUSY_RATE = 1_000.0
"""Above this many requests/s one generator process begins to measure itself."""
BUSY_CPU = 70.0
"""The same, in per cent of a core."""

_WINDOW = 5
"""Reports that a sample looks at: four intervals of half a second."""


_MORE = " (--workers shares the users out)"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One JSON line of a generator. Counts are since its start."""

    at: float
    """Monotonic seconds."""
    users: int
    sent: int
    answered: int
    """With a status below 400."""
    failed: int
    """With any other status, or without an answer."""
    began_at: float | None = None
    """When the first request left, in monotonic seconds; None before."""
    ended_at: float | None = None
    """When the last request ended, in monotonic seconds; None before the first one."""
    latencies: dict[int, int]
    """Microseconds -> how many took that long, since the report before this one."""
    errors: dict[str, int] = {}
    """Why requests failed -> how many."""
    cpu_s: float = 0.0
    """Seconds of processor time that the generator used: the mean of its processes."""
    processes: int = 1
    interrupted: bool = False
    """Somebody asked for its end before its time was over."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The run so far. Counts are since its start; rate, latencies and CPU are of the last two seconds."""

    elapsed_s: float
    users: int = 0
    sent: int = 0
    answered: int = 0
    failed: int = 0
    rps: float = 0.0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    cpu_percent: float = 0.0
    """Of a core, the mean of the generator's processes."""
    processes: int = 1

    @property
    def warming_up(self) -> bool:
        """Nothing was sent yet: the generator takes about 1.6 s to start."""
        return self.sent == 0

    @property
    def warning(self) -> str:
        """Why these figures tell of the generator as much as of the lab; empty when they do not."""
        return _busy(self.cpu_percent, self.rps / self.processes)


class Ending(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    """It ran its time."""
    STOPPED = "stopped"
    """Somebody stopped it; what it had measured stands."""
    DIED = "died"
    """The generator ended by itself."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. `cgilab load --json` prints this value, encoded."""

    version: int = 1
    url: str
    users: int
    shape: Shape
    ending: Ending
    seconds: float
    """From the first request to the last answer."""
    sent: int
    answered: int
    failed: int
    rps: float
    """Requests that ended, with or without an answer, a second."""
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    errors: dict[str, int]
    warnings: tuple[str, ...]
    report: str
    """Path of the HTML report; empty when there is none."""


class Tally:
    """Adds reports up. One for each run, fed in order."""

    def __init__(self) -> None:
        self._window: deque[Report] = deque(maxlen=_WINDOW)
        self._latencies = Histogram()
        self._slowest_us = 0
        self._began: float | None = None
        self._peak_cpu = 0.0
        self._peak_rps = 0.0
        self._warnings: list[str] = []

    @property
    def latest(self) -> Report | None:
        """The newest report."""
        return self._window[-1] if self._window else None

    @property
    def seconds(self) -> float:
        """From the first request to the newest report, or to the last answer when all have left."""
        if self._began is None:
            return 0.0
        last = self._window[-1]
        return (last.at if last.users or last.ended_at is None else last.ended_at) - self._began

    def warn(self, text: str) -> None:
        """Have the result carry this warning."""
        self._warnings.append(text)

    def add(self, report: Report) -> Sample:
        """Count one report and return the run so far."""
        if self._began is None or report.sent == 0:
            self._began = report.at
        elif report.began_at is not None:
            self._began = report.began_at
        self._window.append(report)
        _count(self._latencies, report.latencies)
        self._slowest_us = max(self._slowest_us, *report.latencies, 0)
        sample = self._sample(report)
        self._peak_cpu = max(self._peak_cpu, sample.cpu_percent)
        self._peak_rps = max(self._peak_rps, sample.rps / sample.processes)
        return sample

    def result(self, profile: Profile, url: str, ending: Ending, report: str) -> Result:
        """Everything that was counted."""
        last = self.latest or Report(at=0.0, users=0, sent=0, answered=0, failed=0, latencies={})
        p50, p90, p95, p99 = _milliseconds(self._latencies, self._slowest_us, 0.5, 0.9, 0.95, 0.99)
        return Result(
            url=url,
            users=profile.users,
            shape=profile.shape,
            ending=ending,
            seconds=self.seconds,
            sent=last.sent,
            answered=last.answered,
            failed=last.failed,
            rps=_rate(last.answered + last.failed, self.seconds),
            p50_ms=p50,
            p90_ms=p90,
            p95_ms=p95,
            p99_ms=p99,
            max_ms=self._slowest_us / 1000 if self._latencies.total else None,
            errors=last.errors,
            warnings=tuple(filter(None, (*self._warnings, _busy(self._peak_cpu, self._peak_rps)))),
            report=report,
        )

    def _sample(self, report: Report) -> Sample:
        first, *later = self._window
        recent = Histogram()
        for one in later:
            _count(recent, one.latencies)
        slowest = max((us for one in later for us in one.latencies), default=0)
        p50, p95, p99 = _milliseconds(recent, slowest, 0.5, 0.95, 0.99)
        ended = report.answered + report.failed - first.answered - first.failed
        return Sample(
            elapsed_s=self.seconds,
            users=report.users,
            sent=report.sent,
            answered=report.answered,
            failed=report.failed,
            rps=_rate(ended, report.at - first.at),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            cpu_percent=100 * _rate(report.cpu_s - first.cpu_s, report.at - first.at),
            processes=report.processes,
        )


def line(sample: Sample) -> str:
    """A sample as one line of about 80 columns. An exclamation mark says that the generator is too busy to trust."""
    if sample.warming_up:
        return f"{sample.elapsed_s:6.1f} s  warming up"
    latencies = "  ".join(
        f"{name} {_ms(value)}"
        for name, value in (("p50", sample.p50_ms), ("p95", sample.p95_ms), ("p99", sample.p99_ms))
    )
    users = f"{sample.users:4} {'user ' if sample.users == 1 else 'users'}"
    text = f"{sample.elapsed_s:6.1f} s  {users}  {sample.rps:6.0f} req/s  {latencies} ms"
    return f"{text}  {sample.failed} failed{'  !' if sample.warning else ''}"


def table(result: Result) -> str:
    """A result as plain lines: a name, two spaces or more, a value."""
    spread = ("p50", result.p50_ms), ("p90", result.p90_ms), ("p95", result.p95_ms), ("p99", result.p99_ms)
    rows = [
        ("target", result.url),
        ("run", f"{result.ending}, {counted(result.users, 'user')}, {result.shape}, {result.seconds:.1f} s"),
        ("requests", f"{result.sent} sent = {result.answered} answered + {result.failed} failed{_open(result)}"),
        ("rate", f"{result.rps:.1f} requests/s"),
        ("latency", "  ".join(f"{name} {_ms(value)}" for name, value in (*spread, ("max", result.max_ms))) + " ms"),
        *(("failed", f"{count} x {why}") for why, count in sorted(result.errors.items())),
        *(("warning", text) for text in result.warnings),
        *((("report", result.report),) if result.report else ()),
    ]
    return "\n".join(f"{name:<9} {value}" for name, value in rows)


def _busy(cpu_percent: float, rps: float) -> str:
    if cpu_percent > BUSY_CPU:
        return f"the generator used {cpu_percent:.0f} % of a core: above {BUSY_CPU:.0f} % it measures itself{_MORE}"
    if rps > BUSY_RATE:
        return f"the generator sent {rps:.0f} requests/s a process: above {BUSY_RATE:.0f} it measures itself{_MORE}"
    return ""


def _open(result: Result) -> str:
    unanswered = result.sent - result.answered - result.failed
    return f" + {unanswered} cut off" if unanswered else ""


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _count(histogram: Histogram, latencies: dict[int, int]) -> None:
    for us, times in latencies.items():
        for _ in range(times):
            histogram.record(us / 1e6)


def _milliseconds(histogram: Histogram, slowest_us: int, *qs: float) -> list[float | None]:
    """Quantiles; a histogram knows them within 2 %, and none of them is above the slowest of all."""
    most = slowest_us / 1000
    return [None if value is None else min(most, round(value * 1000, 4)) for value in histogram.quantiles(*qs)]


if __name__ == "__main__":
    sys.stdout.write(published(Result, "A load run: cgilab load --json"))
