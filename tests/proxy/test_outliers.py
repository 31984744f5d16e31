"""Point 21: who is ejected, for how long, and who never is; with a clock that the tests turn by hand."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.model import OutlierSpec
from lab.proxy.outliers import Outliers, Record

WHY = "It broke."


def outliers(number: int, **keys: float) -> tuple[Outliers, list[Record]]:
    found = Outliers(msgspec.convert({"consecutive_errors": 3, **keys}, OutlierSpec), 0.0)
    return found, [found.add() for _ in range(number)]


def fail(found: Outliers, record: Record, now: float, times: int = 3) -> bool:
    return [found.failed(record, now, WHY) for _ in range(times)][-1]


def test_21_so_many_errors_in_a_row_eject() -> None:
    found, (one, _) = outliers(2)
    assert not found.failed(one, 0.0, WHY)
    assert not found.failed(one, 0.0, WHY)
    assert found.failed(one, 0.0, "It was reset.")
    assert one.ejected
    assert one.until == 30.0
    assert one.why == "failed 3 requests in a row. The last one: It was reset."


def test_21_an_answer_in_between_begins_the_count_anew() -> None:
    found, (one, _) = outliers(2)
    for _ in range(10):
        found.failed(one, 0.0, WHY)
        found.failed(one, 0.0, WHY)
        found.succeeded(one)
    assert not one.ejected


@pytest.mark.parametrize(("number", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)])
def test_21_at_most_half_are_ejected(number: int, most: int) -> None:
    found, records = outliers(number)
    for record in records:
        fail(found, record, 0.0)
    assert sum(record.ejected for record in records) == most


def test_21_when_one_is_back_the_next_may_go() -> None:
    found, (one, other) = outliers(2)
    fail(found, one, 0.0)
    fail(found, other, 1.0)
    assert not other.ejected
    assert found.due == 10.0
    assert found.look(30.0).back == (one,)
    assert found.failed(other, 30.0, WHY)


def test_21_it_is_back_when_its_time_is_over_and_not_before() -> None:
    found, (one, _) = outliers(2, interval=3600)
    fail(found, one, 100.0)
    assert found.due == 130.0
    assert found.look(129.9).back == ()
    assert found.look(130.0).back == (one,)
    assert not one.ejected
    assert one.errors == 0


def test_21_each_ejection_is_longer_up_to_a_bound() -> None:
    found, (one, _) = outliers(2, interval=3600, max_ejection=70)
    lengths = []
    now = 0.0
    for _ in range(4):
        fail(found, one, now)
        lengths.append(one.until - now)
        now = one.until
        found.look(now)
    assert lengths == [30, 60, 70, 70]


def test_21_each_quiet_interval_makes_the_next_ejection_shorter() -> None:
    found, (one, _) = outliers(2, interval=10, base_ejection=5)
    fail(found, one, 0.0)
    found.look(5.0)
    fail(found, one, 6.0)
    assert one.until == 16.0
    found.look(10.0)
    assert one.ejections == 2
    found.look(16.0)
    found.look(20.0)
    assert one.ejections == 2  # it was out in a part of that interval
    found.look(30.0)
    found.look(40.0)
    assert one.ejections == 0
    fail(found, one, 41.0)
    assert one.until == 46.0


def rated(found: Outliers, records: list[Record], rates: list[int]) -> list[int]:
    """Give each so many successes of a hundred; the places of those who are ejected for it."""
    for record, rate in zip(records, rates, strict=True):
        for _ in range(rate):
            found.succeeded(record)
        for _ in range(100 - rate):
            found.failed(record, 0.0, WHY)
    ejected = found.look(10.0).ejected
    return [records.index(record) for record in ejected]


def test_21_who_succeeds_much_less_than_the_others_is_ejected() -> None:
    found, records = outliers(6, consecutive_errors=0, success_rate_factor=1.9)
    assert rated(found, records, [99, 100, 98, 60, 100, 99]) == [3]
    assert records[3].why.startswith("answered 60% of its requests, where at least 6")


def test_21_where_all_do_badly_nobody_is_an_outlier() -> None:
    found, records = outliers(6, consecutive_errors=0, success_rate_factor=1.9)
    assert rated(found, records, [50] * 6) == []


def test_21_success_is_not_compared_among_few_or_by_few_requests() -> None:
    found, records = outliers(4, consecutive_errors=0, success_rate_factor=1.0)
    assert rated(found, records, [100, 100, 100, 0]) == []
    found, records = outliers(5, consecutive_errors=0, success_rate_factor=1.0, min_requests=101)
    assert rated(found, records, [100, 100, 100, 100, 0]) == []


def test_21_each_interval_is_compared_by_itself() -> None:
    found, records = outliers(6, consecutive_errors=0, success_rate_factor=1.9, max_ejected_percent=0)
    rated(found, records, [100, 100, 100, 0, 100, 100])
    assert [(record.good, record.bad) for record in records] == [(0, 0)] * 6


def test_21_a_shorter_interval_holds_at_once_and_an_ejection_stays_as_long_as_it_was() -> None:
    found, (one, _) = outliers(2, interval=3600)
    fail(found, one, 0.0)
    found.apply(OutlierSpec(consecutive_errors=3, interval=5, base_ejection=1), 1.0)
    assert found.due == 6.0
    assert found.look(29.0).back == ()
    assert found.look(30.0).back == (one,)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["good", "bad", "look"]), st.floats(0, 20)), max_size=200))
def test_21_whatever_happens_half_stay_and_everybody_comes_back(steps: list[tuple[int, str, float]]) -> None:
    found, records = outliers(5, success_rate_factor=1.0, min_requests=1)
    now = 0.0
    for place, what, seconds in steps:
        now += seconds
        if what == "good":
            found.succeeded(records[place])
        elif what == "bad":
            found.failed(records[place], now, WHY)
        else:
            found.look(now)
        assert sum(record.ejected for record in records) <= 2
        assert all(record.until <= now + 300 for record in records)
        assert all(bool(record.why) == record.ejected for record in records)
    for _ in range(3):
        now = max(found.due, now)
        found.look(now)
    found.look(now + 301)
    assert not any(record.ejected for record in records)
