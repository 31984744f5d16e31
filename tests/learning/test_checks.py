"""Verdicts and predictions: what was measured decides, and what was not measured is unknown."""

import pytest

from lab.learning.checks import Verdict, decide, judge
from lab.learning.expressions import Facts
from lab.learning.format import Check, Noise, Predict, Scale
from lab.learning.predictions import Nearness, compare, reply

PASS, FAIL, UNKNOWN = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN


def test_a_check_passes_fails_or_cannot_tell() -> None:
    names = {"measure": Facts(kills=2, heal_ms=None)}
    assert judge("measure.kills == 2", names) is PASS
    assert judge("measure.kills == 3", names) is FAIL
    assert judge("measure.heal_ms < 5", names) is UNKNOWN


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        ([], UNKNOWN),
        ([PASS], UNKNOWN),
        ([PASS, PASS], PASS),
        ([PASS, FAIL], UNKNOWN),
        ([FAIL, FAIL], FAIL),
        ([PASS, FAIL, PASS], PASS),
        ([PASS, FAIL, UNKNOWN], UNKNOWN),
    ],
)
def test_two_passes_of_three_runs_decide_and_noise_is_unknown(runs: list[Verdict], verdict: Verdict) -> None:
    assert decide(Check(id="c", expr="True", runs=3, need=2), runs) is verdict


def test_noise_fails_a_check_that_says_so() -> None:
    strict = Check(id="c", expr="True", runs=2, need=2, on_noise=Noise.FAIL)
    assert decide(strict, [PASS, UNKNOWN]) is FAIL


LOG = Predict(id="heal", truth="death.heal_ms", values=("1", "10", "100"), scale=Scale.LOG)


@pytest.mark.parametrize(
    ("truth", "nearness"),
    [
        (4.7, [Nearness.FAR, Nearness.RIGHT, Nearness.FAR]),
        (2.9, [Nearness.RIGHT, Nearness.FAR, Nearness.FAR]),
        (33.0, [Nearness.FAR, Nearness.FAR, Nearness.RIGHT]),
        (0.05, [Nearness.RIGHT, Nearness.FAR, Nearness.FAR]),
    ],
)
def test_the_nearest_order_of_magnitude_is_right(truth: float, nearness: list[Nearness]) -> None:
    names = {"death": Facts(heal_ms=truth)}
    assert [compare(LOG, choice, names) for choice in range(3)] == nearness


def test_within_a_factor_of_three_is_close() -> None:
    fine = Predict(id="p", truth="death.heal_ms", values=("10", "12", "40"), scale=Scale.LOG)
    found = [compare(fine, choice, {"death": Facts(heal_ms=13.0)}) for choice in range(3)]
    assert found == [Nearness.CLOSE, Nearness.RIGHT, Nearness.FAR]


def test_a_choice_is_right_or_not_and_not_sure_is_fine() -> None:
    choice = Predict(id="next", truth="pids[3]", values=("pids[0]", "pids[1]", "''"))
    names = {"pids": (1, 2, 3, 1)}
    assert [compare(choice, place, names) for place in range(3)] == [Nearness.RIGHT, Nearness.FAR, Nearness.UNKNOWN]


def test_a_truth_that_was_not_measured_judges_nobody() -> None:
    assert compare(LOG, 0, {"death": None}) is Nearness.UNKNOWN


def test_every_reply_quotes_what_was_said() -> None:
    assert all("100 ms" in reply(nearness, "100 ms") for nearness in Nearness)
