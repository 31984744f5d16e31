"""The language of lessons computes what it says, and reaches nothing else."""

import pytest

from lab.learning.expressions import ExpressionError, Facts, NotMeasuredError, read

NAMES = {
    "n": 3,
    "pids": (11, 12),
    "nothing": None,
    "one": Facts(two=2, none=None),
    "double": lambda x, by=2: x * by,
    "True": True,
}


def value(source: str) -> object:
    return read(source, NAMES).value(NAMES)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("n == 3 and not n > 4", True),
        ("1 < n < 3", False),
        ("n * 2 - 1 / 2", 5.5),
        ("-n", -3),
        ("pids[0]", 11),
        ("pids[1] == 12", True),
        ("one.two + double(n, by=4)", 14),
        ("'a' == 'a' or n / 0 == 1", True),
        ("n == 4 and n / 0 == 1", False),
    ],
)
def test_an_expression_has_its_value(source: str, expected: object) -> None:
    assert value(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "__import__('os')",
        "().__class__",
        "[x for x in pids]",
        "lambda: 1",
        "(n := 4)",
        "f'{n}'",
        "double(*pids)",
        "double(**one)",
        "one.two()",
        "pids[0:1]",
        "n ** 999999999",
        "n if n else n",
        "n in pids",
        "b'bytes'",
        "await n",
        "n;n",
        "n" * 600,
        "(" * 300 + "n" + ")" * 300,
    ],
)
def test_what_is_not_in_the_language_is_refused_before_it_runs(source: str) -> None:
    with pytest.raises(ExpressionError):
        read(source, NAMES)


@pytest.mark.parametrize("source", ["one.__class__", "n.real", "pids.count", "double.__globals__", "'x'.format"])
def test_no_attribute_of_a_python_object_can_be_reached(source: str) -> None:
    with pytest.raises(ExpressionError, match="found"):
        value(source)


@pytest.mark.parametrize(
    "source", ["nothing + 1", "nothing > 3", "not nothing", "nothing.part", "pids[7] == 1", "one.none < 2"]
)
def test_computing_with_what_was_not_measured_is_not_false_but_not_measured(source: str) -> None:
    with pytest.raises(NotMeasuredError):
        value(source)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ExpressionError, match="nearest known name is 'double'"):
        read("doubble(n)", NAMES)


def test_wrong_arguments_and_wrong_types_are_errors_of_the_expression() -> None:
    for source in ("double()", "n + 'x'", "n / 0", "n(1)", "n[0]"):
        with pytest.raises(ExpressionError):
            value(source)
