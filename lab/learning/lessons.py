"""The lessons there are: one folder each, in the order of their folders' names."""

from difflib import get_close_matches
from pathlib import Path

import msgspec

from lab import paths
from lab.core.errors import UnknownTargetError
from lab.learning import format as lesson_format
from lab.learning.format import Lesson, Level
from lab.learning.progress import Progress

FIRST = "first-look"
"""The lesson that the lab opens on until it is done."""


class Entry(msgspec.Struct, frozen=True):
    """A line of the catalogue."""

    id: str
    title: str
    level: Level
    minutes: int
    needs: tuple[str, ...]
    objectives: tuple[str, ...]
    done: bool


def catalogue(progress: Progress, folder: Path | None = None) -> list[Entry]:
    """Every lesson in `folder` (the lab's own by default). Raises `ConfigError` for one that is damaged."""
    return [
        Entry(
            lesson.id,
            lesson.title,
            lesson.toml.level,
            lesson.toml.minutes,
            lesson.toml.needs,
            lesson.toml.objectives,
            progress.done(lesson.id),
        )
        for lesson in _all(folder)
    ]


def load(lesson_id: str, folder: Path | None = None) -> Lesson:
    """The lesson called `lesson_id`. Raises `UnknownTargetError` that lists what there is, and `ConfigError`."""
    lessons = {lesson.id: lesson for lesson in _all(folder)}
    if lesson_id not in lessons:
        near = get_close_matches(lesson_id, lessons, 1)
        remedy = f"Did you mean {near[0]!r}?" if near else ""
        raise UnknownTargetError(f"No lesson is called {lesson_id!r}; there are: {', '.join(lessons)}.", remedy)
    return lessons[lesson_id]


def _all(folder: Path | None) -> list[Lesson]:
    where = folder or paths.content("lessons")
    return [lesson_format.read(file.parent) for file in sorted(where.glob("*/lesson.toml"))]
