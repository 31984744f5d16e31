"""A lesson is read whole, or the error says which file, which key, what was found and what would do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.core.errors import ConfigError, UnknownTargetError
from lab.learning import format as lesson_format
from lab.learning import lessons
from lab.learning.progress import Progress

Write = Callable[..., Path]


def test_the_lessons_of_the_lab_can_be_read(tmp_path: Path) -> None:
    entries = lessons.catalogue(Progress(tmp_path / "p.json"))
    assert entries[0].id == lessons.FIRST
    assert entries[0].title
    assert not entries[0].done


def test_an_unknown_lesson_is_answered_with_the_ones_there_are() -> None:
    with pytest.raises(UnknownTargetError, match="first-look"):
        lessons.load("frist-look")


def test_a_well_formed_lesson_is_read_whole(write_lesson: Write) -> None:
    lesson = lessons.load("short", write_lesson())
    assert lesson.title == "A short lesson"
    assert lesson.prediction("heal").values == ("1", "100000")
    assert lesson.question("why").right == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("settles =", "setles =", "settles"),
        ("minutes = 1", "minutes = 0", "minutes"),
        ("minutes = 1", "", "minutes"),
        ('level = "beginner"', 'level = "beginer"', "beginner"),
        ('allow = ["kill"]', 'allow = ["kil"]', "kill"),
        ("format_version = 1", "format_version = 2", "format_version"),
        ('expr = "worker_replaced', 'expr = "worker_replacd', "worker_replaced"),
        ('truth = "death', 'truth = "deaths', "death"),
        ('predict = "heal"', 'predict = "hael"', "heal"),
        ('ask = "why"', 'ask = "because"', "why"),
        ('"100000"]', '"100000", "3"]', "2 options"),
        ("right = 2", "right = 3", "2 options"),
        ('text = "killed"', 'text = "kiled"', "killed"),
        ("## teach", "## teachh", "teach"),
        ("## killed", "## spare\nx\n\n## killed", "spare"),
        ("  > Somebody did.\n", "", "no reply"),
        ("{{ death.pid }}", "{{ deaht.pid }}", "death"),
        ("{{ target.pid }}", "{{ target.pid", "template"),
        ('id = "gone"', 'id = "gone", runs = 2', "timed step"),
        ("# A short lesson", "A short lesson", "no title"),
    ],
)
def test_a_damaged_lesson_says_what_is_wrong(write_lesson: Write, old: str, new: str, said: str) -> None:
    folder = write_lesson(old, new) / "01-short"
    with pytest.raises(ConfigError) as caught:
        lesson_format.read(folder)
    assert said in str(caught.value)
    assert str(folder) in caught.value.message


@pytest.mark.parametrize("name", ["lesson.toml", "text.en.md"])
def test_a_missing_or_unreadable_file_is_named(write_lesson: Write, name: str) -> None:
    folder = write_lesson() / "01-short"
    (folder / name).write_bytes(b"\xff\xfe garbage")
    with pytest.raises(ConfigError, match=name):
        lesson_format.read(folder)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=name):
        lesson_format.read(folder)
