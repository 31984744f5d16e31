"""Point 25: token buckets, with the time given."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.model import RateLimit
from lab.proxy.limits import RateLimiter, prefix

A, B = "192.0.2.1", "192.0.2.2"


def passed(limiter: RateLimiter, address: str, times: list[float]) -> int:
    """How many requests at these times may pass."""
    return sum(not limiter.take(address, now)[0] for now in times)


def test_25_a_burst_passes_then_the_rate():
    limiter = RateLimiter(RateLimit(rate=10, burst=5))
    assert passed(limiter, A, [100.0] * 20) == 5
    assert passed(limiter, A, [100.0 + 0.01 * number for number in range(1, 101)]) == 10


def test_25_who_may_not_pass_is_told_when():
    limiter = RateLimiter(RateLimit(rate=2, burst=1))
    assert limiter.take(A, 10.0) == (0.0, False)
    seconds, his = limiter.take(A, 10.1)
    assert seconds == pytest.approx(0.4)
    assert not his
    assert limiter.take(A, 10.1 + seconds - 0.001)[0] > 0
    assert limiter.take(A, 10.1 + seconds) == (0.0, False)


def test_25_a_pause_earns_a_burst_and_no_more():
    limiter = RateLimiter(RateLimit(rate=10, burst=5))
    assert passed(limiter, A, [0.0] * 9) == 5
    assert passed(limiter, A, [1000.0] * 9) == 5


def test_25_each_client_has_a_bucket_of_its_own():
    limiter = RateLimiter(RateLimit(per_client_rate=1, per_client_burst=2))
    assert passed(limiter, A, [5.0] * 5) == 2
    assert passed(limiter, B, [5.0] * 5) == 2
    seconds, his = limiter.take(A, 5.0)
    assert his
    assert seconds == pytest.approx(1.0)


def test_25_who_may_not_pass_takes_from_neither_bucket():
    limiter = RateLimiter(RateLimit(rate=1, burst=3, per_client_rate=1, per_client_burst=1))
    assert passed(limiter, A, [5.0] * 10) == 1
    assert passed(limiter, B, [5.0] * 10) == 1
    assert passed(limiter, "192.0.2.3", [5.0] * 10) == 1
    assert limiter.take("192.0.2.4", 5.0)[1] is False
    assert limiter.take("192.0.2.4", 6.0) == (0.0, False)


def test_25_memory_is_bounded_and_who_hammers_is_not_forgotten():
    limiter = RateLimiter(RateLimit(per_client_rate=1, per_client_burst=1), room=100)
    assert limiter.take(A, 5.0)[0] == 0
    for number in range(1000):
        limiter.take(f"198.51.{number // 250}.{number % 250}", 5.0)
        assert limiter.take(A, 5.0)[0] > 0
    assert len(limiter) == 100


def test_25_a_new_rate_holds_at_once_and_forgives_nothing():
    limiter = RateLimiter(RateLimit(rate=1, burst=1))
    assert limiter.take(A, 5.0)[0] == 0
    limiter.spec = RateLimit(rate=100, burst=1)
    assert limiter.take(A, 5.5)[0] == pytest.approx(0.5)
    assert limiter.take(A, 6.0)[0] == 0
    assert limiter.take(A, 6.011)[0] == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", A, True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        (A, B, False),
    ],
)
def test_25_an_ipv6_client_is_its_64(one, other, same):
    assert (prefix(one) == prefix(other)) is same


@settings(deadline=None)
@given(
    rate=st.floats(0.1, 1e6),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=100),
)
def test_25_in_no_stretch_of_time_do_more_pass_than_burst_and_rate_allow(rate, burst, gaps):
    limiter = RateLimiter(RateLimit(rate=rate, burst=burst))
    now, times = 1000.0, []
    for gap in gaps:
        now += gap
        seconds, _ = limiter.take(A, now)
        if not seconds:
            times.append(now)
    for first, begin in enumerate(times):
        for last, end in enumerate(times[first:], first):
            allowed = burst + (end - begin) * rate * (1 + 1e-6) + 1e-3
            assert last - first + 1 <= allowed + rate * 1e-6
