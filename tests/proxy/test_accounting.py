"""Counters that conserve, and windows that forget."""

from hypothesis import given
from hypothesis import strategies as st

from lab.proxy.accounting import WINDOW, Counters, Latency, Outcome


@given(st.lists(st.sampled_from([None, *Outcome])))
def test_accepted_is_always_the_sum_of_outcomes_and_of_what_is_in_flight(steps):
    counters, window = Counters(), Latency(0.0).recent(1.0)
    for step in steps:
        if step is None or not counters.in_flight:
            counters.begin()
        else:
            counters.end(step)
        totals = counters.totals(window)
        ended = totals.answered + totals.failed + totals.shed + totals.abandoned
        assert totals.accepted == ended + totals.in_flight


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
