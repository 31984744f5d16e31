"""Verdicts: pass, fail or unknown, reached on what was observed.

Unknown is an honest answer: something was not measured, or the machine was too noisy to tell. It never blocks anybody.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from lab.learning import expressions
from lab.learning.format import Check, Noise
from lab.learning.observation import NAMES


class Verdict(StrEnum):
    """What a check answers."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"


def judge(expr: str, names: Mapping[str, Any]) -> Verdict:
    """Whether `expr` holds over `names`; unknown if it needs something that was not measured."""
    try:
        return Verdict.PASS if expressions.read(expr, NAMES).value(names) else Verdict.FAIL
    except expressions.NotMeasuredError:
        return Verdict.UNKNOWN


def decide(check: Check, runs: Sequence[Verdict]) -> Verdict:
    """The verdict on all `runs` so far.

    Enough passes are a pass; so many fails that enough passes cannot come any more are a fail. When all runs are over
    and neither is so, the check says what it answers to noise; before that it is not known yet.
    """
    if runs.count(Verdict.PASS) >= check.need:
        return Verdict.PASS
    if runs.count(Verdict.FAIL) > check.runs - check.need:
        return Verdict.FAIL
    noisy = len(runs) >= check.runs and check.on_noise is Noise.FAIL
    return Verdict.FAIL if noisy else Verdict.UNKNOWN
