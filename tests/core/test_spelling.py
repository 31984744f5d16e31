"""A wrong word is shown as it stands, with the one that was probably meant."""

from lab.core.spelling import counted, meant, nearest, quoted


def test_the_nearest_word_is_offered_else_all_there_are() -> None:
    assert nearest("pyton", ["c", "python"]) == 'Did you mean "python"?'
    assert nearest("zzz", ["python", "c"]) == "Known: c, python."
    assert nearest("zzz", []) == "Known: none."
    assert meant("zzz", ["python"]) == ""


def test_a_long_value_is_shortened() -> None:
    assert quoted("é") == '"é"'
    assert quoted("x" * 100) == '"' + "x" * 59 + "..."


def test_one_is_not_many() -> None:
    assert [counted(number, "worker") for number in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]
    assert [counted(number, "process", "processes") for number in (1, 2)] == ["1 process", "2 processes"]
