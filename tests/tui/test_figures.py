"""Numbers as people read them."""

import pytest

from lab.tui import figures


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "-"),
        (0.042, "0.04 ms"),
        (0.42, "0.4 ms"),
        (9.96, "10 ms"),
        (23.4, "23 ms"),
        (999.4, "999 ms"),
        (1234, "1.2 s"),
    ],
)
def test_milliseconds_are_short_and_carry_their_unit(value: float | None, said: str) -> None:
    assert figures.milliseconds(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "-"), (-1, "0.0 s"), (0.2, "0.2 s"), (42, "42 s"), (59.6, "1:00"), (187, "3:07"), (7387, "2:03:07")],
)
def test_durations_become_a_clock_from_a_minute_on(value: float | None, said: str) -> None:
    assert figures.seconds(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(None, "-"), (0.0, "0"), (4.84, "4.8"), (312.2, "312"), (9951, "10.0k"), (12345, "12.3k")]
)
def test_rates_never_need_more_than_six_cells(value: float | None, said: str) -> None:
    assert figures.rate(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(None, "-"), (0, "0 B"), (831_488, "812 K"), (1_884_160, "1.8 M"), (3 * 1024**4, "3.0 T")]
)
def test_sizes_are_in_powers_of_1024(value: int | None, said: str) -> None:
    assert figures.size(value) == said


def test_nothing_of_nothing_is_no_percent() -> None:
    assert figures.percent(0, 0) == "0 %"
    assert figures.percent(1, 300) == "0.3 %"


def test_the_time_of_day_has_milliseconds() -> None:
    assert figures.clock(1_700_000_000.204) == "22:13:20.204"
