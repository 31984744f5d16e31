"""Quantiles within 2 %, in fixed memory, without allocation."""

import tracemalloc
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.histogram import SIZE, Histogram

LONGEST = 134.0
durations = st.floats(min_value=0, max_value=LONGEST)
many = st.lists(durations, min_size=1, max_size=300)
shares = st.floats(min_value=0, max_value=1)


def counted(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def exact(values: list[float], share: float) -> float:
    """The smallest value that a share of all values does not exceed."""
    return sorted(values)[max(1, ceil(share * len(values))) - 1]


@given(many, shares)
def test_a_quantile_is_within_2_percent_or_a_microsecond_of_the_exact_one(values: list[float], share: float) -> None:
    measured = counted(values).quantile(share)
    assert measured == pytest.approx(exact(values, share), rel=0.02, abs=1e-6)


@given(st.integers(min_value=0, max_value=int(LONGEST * 1e6)))
def test_every_single_duration_is_kept_within_2_percent(microseconds: int) -> None:
    duration = microseconds / 1e6
    assert counted([duration]).quantile(0.5) == pytest.approx(duration, rel=0.02, abs=1e-6)


@given(many, st.lists(shares, min_size=1, max_size=6))
def test_several_quantiles_in_one_pass_are_those_of_single_passes(values: list[float], asked: list[float]) -> None:
    histogram = counted(values)
    assert histogram.quantiles(*asked) == [histogram.quantile(share) for share in asked]


@given(many, many)
def test_merging_is_counting_together(some: list[float], others: list[float]) -> None:
    merged = counted(some)
    merged.merge(counted(others))
    assert merged.counts == counted(some + others).counts
    assert merged.total == len(some) + len(others)


@given(many, many)
def test_since_a_copy_is_what_was_counted_after_it(before: list[float], after: list[float]) -> None:
    histogram = counted(before)
    earlier = histogram.copy()
    for value in after:
        histogram.record(value)
    assert histogram.since(earlier).counts == counted(after).counts
    assert histogram.since(earlier).total == len(after)
    assert earlier.counts == counted(before).counts


def test_nothing_counted_has_no_quantile() -> None:
    assert Histogram().quantiles(0.5, 0.99) == [None, None]


def test_the_extremes_are_the_least_and_the_greatest() -> None:
    histogram = counted([0.001, 0.002, 0.003])
    assert histogram.quantile(0) == pytest.approx(0.001, rel=0.02)
    assert histogram.quantile(1) == pytest.approx(0.003, rel=0.02)


def test_negative_and_endless_durations_are_counted_at_the_ends() -> None:
    histogram = counted([-5.0, 1e12])
    assert histogram.total == sum(histogram.counts) == 2
    assert histogram.quantile(0) == 0
    assert histogram.quantile(1) == pytest.approx(134.2, rel=0.02)


def test_recording_allocates_nothing() -> None:
    histogram = Histogram()
    values = [number / 777 for number in range(200)]  # below 257 counts a bucket: small integers exist already
    for value in values:
        histogram.record(value)
    histogram = Histogram()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for value in values:
            histogram.record(value)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 64 * 8  # the total and the loop's own variables; a histogram has 736 buckets and 200 values came
    assert len(histogram.counts) == SIZE
