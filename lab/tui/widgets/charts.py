"""The last minute as two charts: requests a second, and what they took. Deaths and healings are marked."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

from lab.tui import figures
from lab.tui.bridge import WINDOW_S, History, Sample
from lab.tui.painting import Painted, Row, Span
from lab.tui.plotting import PLAIN, Canvas, Point, ceiling, columns, curves

_AXIS = 6
"""Cells left of the plot, for the scale."""


class Chart(Painted):
    """What both charts share: a heading, the marks of the minute, a scale on the left, the plot."""

    can_focus = True
    to_copy = "cgilab status --json"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._history: History | None = None
        self._drawn = -1

    def show(self, history: History) -> None:
        """Draw the minute that `history` holds. It is read now and again when the size changes."""
        self._history = history
        if history.version != self._drawn:
            self._drawn = history.version
            self.repaint()

    def heading(self) -> Row:
        """The first row: what is drawn, and in which unit."""
        raise NotImplementedError

    def highest(self, samples: Iterable[Sample]) -> float:
        """The largest value to be drawn."""
        raise NotImplementedError

    def plot(self, samples: Sequence[Sample], top: float, width: int, height: int) -> tuple[Canvas, Sequence[str]]:
        """The drawing, and the role of each series in it."""
        raise NotImplementedError

    def rows(self, width: int) -> Sequence[Row]:
        inner, height = width - _AXIS - 1, self.size.height - 2
        if inner < 4 or height < 1:
            return (self.heading(),)
        samples = list(self._history.samples) if self._history is not None else []
        top = ceiling(self.highest(samples))
        canvas, roles = self.plot(samples, top, inner, height)
        drawn = [_row(self._scale(y, height, top), line, roles) for y, line in enumerate(canvas)]
        return (self.heading(), self._marks(inner), *drawn)

    def across(self, at: float) -> float:
        """Where on the time axis a moment lies: 0 a minute ago, 1 now."""
        return 1.0 - ((self._history.now if self._history is not None else at) - at) / WINDOW_S

    def _scale(self, y: int, height: int, top: float) -> Span:
        pipe = self.glyphs.pipe
        if y == 0:
            return f"{figures.rate(top):>{_AXIS}}{pipe}", "dim"
        return f"{'0' if y == height - 1 else '':>{_AXIS}}{pipe}", "dim"

    def _marks(self, width: int) -> Row:
        """One row above the plot: deaths and arrivals, where in the minute they were. A death is never hidden."""
        row: list[Span] = [(" ", "text")] * width
        moments = self._history.moments if self._history is not None else ()
        for moment in sorted(moments, key=lambda one: one.role == "bad"):
            place = round(min(1.0, self.across(moment.at)) * (width - 1))
            sign = self.glyphs.dead if moment.role == "bad" else self.glyphs.ready
            if 0 <= place < width:
                row[place] = (sign, moment.role)
        return ((" " * (_AXIS + 1), "dim"), *_joined(row))


class RateChart(Chart):
    """Requests a second, one column a second: the lab's own below in grey, everybody else's above."""

    HELP = (
        "Requests a second, over the last minute, counted second by second where they arrive.\n\n"
        "The lab sends itself a few requests so that there is always something to see. They are the grey part; "
        "p stops them. What clients send stands above them."
    )

    def heading(self) -> Row:
        last = self._history.samples[-1] if self._history is not None and self._history.samples else None
        figure = f"{figures.rate(last.clients)} + {figures.rate(last.own)} own" if last is not None else ""
        return (("REQUESTS/s", "head"), ("  last minute", "dim"), (f"  {figure}", "text"))

    def highest(self, samples: Iterable[Sample]) -> float:
        return max((one.clients + one.own for one in samples), default=0.0)

    def plot(self, samples: Sequence[Sample], top: float, width: int, height: int) -> tuple[Canvas, Sequence[str]]:
        ends = [self.across(one.at) for one in samples]
        values = []
        for x in range(width):
            place = bisect_left(ends, x / max(1, width - 1))
            one = samples[min(place, len(samples) - 1)] if self._counted(place, x, width, ends) else None
            values.append((one.own / top, (one.own + one.clients) / top) if one is not None else (0.0, 0.0))
        return columns(values, height, self.glyphs.levels), ("dim", "fill")

    def _counted(self, place: int, x: int, width: int, ends: Sequence[float]) -> bool:
        """Whether column `x` lies in the second that ended at `ends[place]`, or in the one that still runs."""
        if not ends:
            return False
        return place > 0 or ends[0] - x / max(1, width - 1) <= 1 / WINDOW_S


class LatencyChart(Chart):
    """p50, p95 and p99 as three curves."""

    HELP = (
        "How long requests took, over the last minute: half of them were faster than p50, 95 in a hundred faster "
        "than p95, 99 in a hundred faster than p99.\n\n"
        "Look at p99: a user who needs thirty requests for one page meets it on every fourth page."
    )

    def heading(self) -> Row:
        signs = (self.glyphs.axis * 2,) * 3 if self.glyphs.braille else tuple(PLAIN)
        names = zip(signs, ("p50", "p95", "p99"), ("good", "accent", "bad"), strict=True)
        legend = tuple((f"  {sign} {name}", role) for sign, name, role in names)
        return (("LATENCY ms", "head"), *legend, ("  last minute", "dim"))

    def highest(self, samples: Iterable[Sample]) -> float:
        return max(
            (value for one in samples for value in (one.p50, one.p95, one.p99) if value is not None), default=0.0
        )

    def plot(self, samples: Sequence[Sample], top: float, width: int, height: int) -> tuple[Canvas, Sequence[str]]:
        drawn = [
            self._points(samples, [one.p50 for one in samples], top),
            self._points(samples, [one.p95 for one in samples], top),
            self._points(samples, [one.p99 for one in samples], top),
        ]
        return curves(drawn, width, height, braille=self.glyphs.braille), ("good", "accent", "bad")

    def _points(self, samples: Sequence[Sample], values: Sequence[float | None], top: float) -> list[Point]:
        pairs = zip(samples, values, strict=True)
        return [(self.across(one.at), value / top) for one, value in pairs if value is not None]


def _row(scale: Span, line: Sequence[tuple[str, int]], roles: Sequence[str]) -> Row:
    return (scale, *_joined([(sign, roles[number] if number >= 0 else "text") for sign, number in line]))


def _joined(spans: Iterable[Span]) -> Row:
    """Neighbours of the same role as one span."""
    joined: list[Span] = []
    for text, role in spans:
        if joined and joined[-1][1] == role:
            joined[-1] = (joined[-1][0] + text, role)
        else:
            joined.append((text, role))
    return tuple(joined)
