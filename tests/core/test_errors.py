"""An error is a sentence for a person, and the same type on both sides of the control socket."""

import pytest

from lab.core.errors import BY_CODE, LabError, NotPossibleError, from_code

TYPES = sorted({LabError, *LabError.__subclasses__()}, key=lambda error: error.code)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_through_its_code(kind: type[LabError]) -> None:
    sent = kind("Found this, expected that.", "Do this.")
    received = from_code(sent.code, sent.message, sent.remedy)
    assert type(received) is kind
    assert str(received) == str(sent) == "Found this, expected that. Do this."


def test_every_code_belongs_to_one_type() -> None:
    assert len(BY_CODE) == len(TYPES)


def test_a_code_of_a_newer_lab_becomes_a_plain_error() -> None:
    error = from_code("invented later", "What happened.")
    assert type(error) is LabError
    assert (error.message, error.remedy, str(error)) == ("What happened.", "", "What happened.")


def test_every_error_can_be_caught_as_a_lab_error() -> None:
    with pytest.raises(LabError):
        raise NotPossibleError("x")
