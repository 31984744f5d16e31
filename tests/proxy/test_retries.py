"""Point 20: which conditions are meant, and how many retries there are in all."""

import pytest

from lab.core.model import RetrySpec
from lab.proxy.retries import RetryBudget, RetryRules


def test_20_by_default_only_a_connection_that_could_not_be_made_is_tried_again() -> None:
    rules = RetryRules(RetrySpec())
    assert rules.connect
    assert not rules.repeats


def test_20_conditions_and_statuses_are_asked_for_by_name() -> None:
    rules = RetryRules(RetrySpec(on=("reset", "503", "timeout")))
    assert (rules.connect, rules.reset, rules.timeout, rules.statuses) == (False, True, True, {503})
    assert rules.repeats


def test_20_the_budget_is_some_a_second_and_a_share_of_the_requests() -> None:
    budget = RetryBudget(RetrySpec(budget_percent=20, budget_per_second=10), 0.0)
    assert budget.left(0.0, 0) == 10
    assert budget.left(0.5, 100) == 30
    assert budget.left(3.0, 100) == 50


def test_20_spent_is_spent() -> None:
    budget = RetryBudget(RetrySpec(budget_percent=20, budget_per_second=0), 0.0)
    assert [budget.spend(1.0, 10) for _ in range(3)] == [True, True, False]
    assert budget.left(1.0, 10) == 0
    assert budget.left(1.0, 15) == 1
    assert budget.spent == 2


@pytest.mark.parametrize("rate", [10, 1000])
def test_20_however_many_fail_retries_stay_a_share_of_the_requests(rate: int) -> None:
    """Every request fails and is tried again as often as it may: the load grows by the budget and no more."""
    budget = RetryBudget(RetrySpec(budget_percent=20, budget_per_second=10), 0.0)
    requests = 0
    for second in range(60):
        for tenth in range(10):
            requests += rate // 10
            while budget.spend(second + tenth / 10, requests):
                pass
        budget.mark(second + 1.0, requests)
    assert budget.spent == pytest.approx(60 * 10 + requests * 0.2, rel=0.2)


def test_20_what_was_spared_longer_ago_than_ten_seconds_is_not_saved_up() -> None:
    budget = RetryBudget(RetrySpec(budget_percent=20, budget_per_second=10), 0.0)
    for second in range(1, 101):
        budget.mark(float(second), second * 100)
    assert budget.left(100.0, 10_000) == 10 * 10 + 200
