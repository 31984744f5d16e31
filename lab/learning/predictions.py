"""Predictions: committed before anything is measured, kept, compared with the truth, never scored.

Most learning happens in the gap between what was said and what was seen, so the reply names both and judges neither.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import log
from typing import Any

from lab.learning import expressions
from lab.learning.format import Predict, Scale
from lab.learning.observation import NAMES

CLOSE = 3.0
"""On a log scale, within this factor is close."""


class Nearness(StrEnum):
    """How a prediction compares with the truth."""

    RIGHT = "right"
    CLOSE = "close"
    FAR = "far"
    UNKNOWN = "unknown"
    """The truth was not measured, or the learner said "not sure": both are fine."""


def compare(prediction: Predict, choice: int, names: Mapping[str, Any]) -> Nearness:
    """How near the option number `choice` (from 0) is to the truth, as `names` has it now."""
    try:
        truth = expressions.read(prediction.truth, NAMES).value(names)
        options = [expressions.read(one, NAMES).value(names) for one in prediction.values]
    except expressions.NotMeasuredError:
        return Nearness.UNKNOWN
    said = options[choice]
    if truth is None or said in (None, ""):
        return Nearness.UNKNOWN
    return _by_factor(said, truth, options) if prediction.scale is Scale.LOG else _exactly(said, truth)


def _exactly(said: Any, truth: Any) -> Nearness:
    return Nearness.RIGHT if said == truth else Nearness.FAR


def _by_factor(said: float, truth: float, options: list[Any]) -> Nearness:
    """Right is the option that is nearest to the truth in orders of magnitude; close is within a factor of `CLOSE`."""
    if truth <= 0 or said <= 0:
        return Nearness.UNKNOWN
    if said == min(options, key=lambda option: abs(log(option / truth))):
        return Nearness.RIGHT
    return Nearness.CLOSE if max(said / truth, truth / said) <= CLOSE else Nearness.FAR


def reply(nearness: Nearness, said: str) -> str:
    """One sentence about a prediction, once the truth is known."""
    return {
        Nearness.RIGHT: f"You said {said}: right.",
        Nearness.CLOSE: f"You said {said}: close, within a factor of {CLOSE:g}.",
        Nearness.FAR: f"You said {said}. A surprise is where learning starts.",
        Nearness.UNKNOWN: f"You said {said}.",
    }[nearness]
