"""Delays double up to their maximum, and jitter only ever shortens them."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from lab.core.backoff import Backoff

PLAIN = Backoff(initial=0.1, maximum=30.0, jitter=0.0)


def test_without_jitter_delays_double_from_the_first_to_the_maximum() -> None:
    delays = [PLAIN.delay(failures, Random(1)) for failures in range(12)]
    assert delays == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]


@given(
    st.integers(-5, 10**9),
    st.floats(0, 60),
    st.floats(0, 3600),
    st.floats(0, 1),
    st.integers(),
)
def test_a_delay_is_never_negative_nor_longer_than_without_jitter_nor_shorter_than_jitter_allows(
    failures: int, initial: float, maximum: float, jitter: float, seed: int
) -> None:
    full = Backoff(initial, maximum, 0.0).delay(failures, Random(seed))
    delay = Backoff(initial, maximum, jitter).delay(failures, Random(seed))
    assert 0 <= full <= maximum
    assert full * (1 - jitter) <= delay <= full


def test_jitter_keeps_two_that_fail_together_from_trying_together() -> None:
    assert Backoff().delay(5, Random(1)) != Backoff().delay(5, Random(2))
