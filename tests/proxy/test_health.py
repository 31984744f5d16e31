"""Point 22: how many answers turn a judgement."""

import pytest

from lab.core.model import HealthCheck
from lab.proxy.health import Health

SPEC = HealthCheck(interval=1, rise=2, fall=3)
WRONG = "answered GET /health with status 500"


@pytest.mark.parametrize(
    ("answers", "healthy"),
    [
        ("-", "-"),
        ("+", "+"),
        ("+--", "+++"),
        ("+---", "+++-"),
        ("+--+--+", "+++++++"),
        ("+---+", "+++--"),
        ("+---++", "+++--+"),
        ("-++", "--+"),
        ("-+-+-+", "------"),
        ("-++---", "--+++-"),
    ],
)
def test_22_the_first_answer_counts_at_once_then_it_takes_rise_or_fall_in_a_row(answers: str, healthy: str) -> None:
    health = Health()
    seen = ""
    for answer in answers:
        before = health.healthy
        turned = health.heard("" if answer == "+" else WRONG, SPEC)
        assert turned == (before is not health.healthy)
        seen += "+" if health.healthy else "-"
    assert seen == healthy


def test_22_it_counts_as_healthy_until_it_was_asked() -> None:
    assert Health().healthy


def test_22_why_is_what_was_wrong_last() -> None:
    health = Health()
    health.heard(WRONG, SPEC)
    assert health.why == WRONG
    health.heard("", SPEC)
    assert not health.why
