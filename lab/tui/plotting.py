"""Curves and columns out of characters: pure functions from numbers to rows, for the charts.

A braille character holds 2 x 4 dots (U+2800 plus one bit a dot), an eighth block a column's height in eighths.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import floor, log10

Point = tuple[float, float]
"""x and y, both from 0 to 1, y upwards."""
Canvas = list[list[tuple[str, int]]]
"""Rows of (character, number of the series it belongs to); -1 where nothing is drawn."""

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BRAILLE = 0x2800
PLAIN = ".o*"
"""Signs of the series where there is no braille."""
EMPTY = (" ", -1)


def ceiling(value: float) -> float:
    """The next of 1, 2 or 5 times a power of ten, so that an axis ends on a round number and seldom moves."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9))


def curves(series: Sequence[Sequence[Point]], width: int, height: int, *, braille: bool) -> Canvas:
    """Draw each series as a line through its points. Where two cross, the later one wins."""
    columns, rows = (2, 4) if braille else (1, 1)
    canvas: Canvas = [[EMPTY] * width for _ in range(height)]
    bits = [[0] * width for _ in range(height)]
    for number, points in enumerate(series):
        for x, y in _dots(points, width * columns, height * rows):
            row, column = y // rows, x // columns
            bits[row][column] |= _DOTS[y % 4][x % 2]
            sign = chr(_BRAILLE + bits[row][column]) if braille else PLAIN[number % len(PLAIN)]
            canvas[row][column] = (sign, number)
    return canvas


def _dots(points: Sequence[Point], width: int, height: int) -> set[tuple[int, int]]:
    """Every dot of a line through `points`, x to the right, y downwards."""
    if width <= 0 or height <= 0:
        return set()
    spots = [
        (min(width - 1, max(0, round(x * (width - 1)))), min(height - 1, max(0, round((1 - y) * (height - 1)))))
        for x, y in points
    ]
    drawn = set(spots)
    for (x0, y0), (x1, y1) in pairwise(spots):
        steps = max(abs(x1 - x0), abs(y1 - y0))
        drawn |= {(x0 + (x1 - x0) * at // steps, y0 + (y1 - y0) * at // steps) for at in range(1, steps)}
    return drawn


def columns(values: Sequence[tuple[float, float]], height: int, levels: str) -> Canvas:
    """Stacked columns of two series, one character wide; values are shares of the height, 0 to 1, lower one first."""
    steps = len(levels) - 1
    canvas: Canvas = [[EMPTY] * len(values) for _ in range(height)]
    for x, (lower, both) in enumerate(values):
        top = min(height * steps, round(both * height * steps) or (1 if both > 0 else 0))
        below = round(lower * height)
        for row in range(height):
            filled = min(steps, max(0, top - row * steps))
            if filled:
                canvas[height - 1 - row][x] = (levels[filled], 0 if row < below or lower >= both else 1)
    return canvas
