"""The page that leads from rule to test does not lie."""

import re

import pytest

from tests.conformance.points import POINTS, README, TESTS, cases, functions

ROWS = re.findall(r"^\| (\d+) \| (.*?) \| (.*?) \| (.*?) \|$", README.read_text(), re.MULTILINE)


@pytest.mark.parametrize("point", POINTS)
def test_every_point_has_a_test_or_a_case_with_its_number(point):
    assert functions()[point] or cases()[point]


def test_the_page_has_each_point_once_in_order_with_its_code_and_its_tests():
    assert [int(number) for number, *_ in ROWS] == list(POINTS)
    for number, rule, code, tests in ROWS:
        assert rule
        links = re.findall(r"\[[^]]+\]\(([^)]+)\)", code), re.findall(r"\[[^]]+\]\(([^)]+)\)", tests)
        assert all(links), f"point {number} leads nowhere: python tests/conformance/points.py"
        for link in (*links[0], *links[1]):
            assert (README.parent / link).exists(), f"{link} is not there: python tests/conformance/points.py"


def test_each_file_that_the_page_names_has_tests_of_that_point():
    found = {point: {path for path, _ in (*functions()[point], *cases()[point])} for point in POINTS}
    for number, _, _, tests in ROWS:
        for link in re.findall(r"\[[^]]+\]\(([^)]+)\)", tests):
            path = (README.parent / link).resolve().relative_to(TESTS)
            assert path in found[int(number)], (
                f"{path} holds nothing of point {number}: python tests/conformance/points.py"
            )
