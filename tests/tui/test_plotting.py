"""Curves and columns out of characters."""

import pytest

from lab.tui.plotting import ceiling, columns, curves


@pytest.mark.parametrize(("value", "top"), [(0, 1), (0.3, 0.5), (1, 1), (3.2, 5), (5.1, 10), (312, 500), (1000, 1000)])
def test_an_axis_ends_on_one_two_or_five_times_a_power_of_ten(value: float, top: float) -> None:
    assert ceiling(value) == pytest.approx(top)


def test_a_level_line_in_braille_is_a_row_of_the_same_dots() -> None:
    drawn = curves([[(0, 0), (1, 0)]], 4, 2, braille=True)
    assert "".join(sign for sign, _ in drawn[1]) == "⣀⣀⣀⣀"
    assert all(series == -1 for _, series in drawn[0])


def test_a_rising_line_goes_from_the_lower_left_to_the_upper_right() -> None:
    drawn = curves([[(0, 0), (1, 1)]], 4, 4, braille=False)
    assert ["".join(sign for sign, _ in row) for row in drawn] == ["   .", "  . ", " .  ", ".   "]


def test_where_two_lines_cross_the_later_one_wins() -> None:
    drawn = curves([[(0, 0), (1, 0)], [(0, 0), (1, 0)]], 3, 1, braille=True)
    assert {series for _, series in drawn[0]} == {1}


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (0, 5), (5, 0)])
@pytest.mark.parametrize("points", [[], [(0.5, 0.5)], [(-3, 9), (4, -2)]])
def test_no_size_and_no_value_breaks_a_plot(size: tuple[int, int], points: list[tuple[float, float]]) -> None:
    assert len(curves([points], *size, braille=True)) == size[1]


def test_columns_stand_on_the_ground_and_keep_the_lower_series_below() -> None:
    drawn = columns([(0.5, 1.0), (0.0, 0.0), (0.0, 0.0625)], 2, " ▁▂▃▄▅▆▇█")
    assert ["".join(sign for sign, _ in row) for row in drawn] == ["█  ", "█ ▁"]
    assert (drawn[0][0][1], drawn[1][0][1]) == (1, 0)


def test_a_little_is_never_drawn_as_nothing() -> None:
    assert columns([(0.0, 0.0001)], 1, " ▁▂▃▄▅▆▇█")[0][0] == ("▁", 1)
