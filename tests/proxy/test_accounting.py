"""Counters that conserve, and windows that forget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.histogram import Histogram
from lab.proxy.accounting import WINDOW, Counters, Latency, Outcome, Tally, count


@given(st.lists(st.sampled_from([None, *Outcome])))
def test_accepted_is_always_the_sum_of_outcomes_and_of_what_is_in_flight(steps):
    counters, window = Counters(), Latency(0.0).recent(1.0)
    for step in steps:
        if step is None or not counters.in_flight:
            counters.accepted += 1
        else:
            counters.end(step)
        totals = counters.totals(window)
        ended = totals.answered + totals.failed + totals.shed + totals.abandoned
        assert totals.accepted == ended + totals.in_flight


DURATION = st.floats(min_value=1e-6, max_value=5)
WAIT = st.one_of(st.just(0.0), DURATION)


@given(st.lists(st.tuples(WAIT, WAIT, DURATION, st.booleans())))
def test_28_what_is_recorded_of_stages_is_what_recording_every_one_of_them_would_give(requests):
    tally = Tally(0.0)
    queue, connect, first_byte, total = (Histogram() for _ in range(4))
    for queued, connecting, worked, in_pieces in requests:
        first = queued + connecting + worked
        took = first + (0.5 if in_pieces else 0.0)
        count((tally,), took, 200, 1, 2)
        if queued or connecting or in_pieces:
            tally.stages(queued, connecting, first if in_pieces else 0.0, took)
        for histogram, seconds in ((queue, queued), (connect, connecting), (first_byte, first), (total, took)):
            histogram.record(seconds)
    figures = tally.figures(len(requests), 0)
    assert figures.queue.counts == queue.counts
    assert figures.connect.counts == connect.counts
    assert figures.first_byte.counts == first_byte.counts
    assert figures.total.counts == total.counts
    assert figures.first_byte.sum == pytest.approx(first_byte.sum)
    assert {one.total for one in (figures.queue, figures.connect, figures.first_byte, figures.total)} == {len(requests)}
    assert (figures.classes[2], figures.received, figures.sent) == (len(requests), len(requests), 2 * len(requests))


def test_a_window_forgets_what_is_older_than_ten_seconds():
    latency = Latency(0.0)
    for _ in range(100):
        latency.record(0.5)
    for second in range(1, WINDOW + 1):
        latency.mark(float(second))
    assert latency.recent(float(WINDOW)).rps == 100 / WINDOW
    latency.mark(float(WINDOW + 1))
    for _ in range(20):
        latency.record(0.001)
    recent = latency.recent(float(WINDOW + 1))
    assert recent.rps == 20 / WINDOW
    assert abs(recent.p50_ms - 1) < 0.02
    assert latency.total.total == 120


def test_windows_of_several_histograms_merge():
    one, other = Latency(0.0), Latency(0.0)
    one.record(0.001)
    other.record(0.1)
    merged = one.recent(2.0, other)
    assert merged.rps == 1.0
    assert merged.p99_ms > 99
