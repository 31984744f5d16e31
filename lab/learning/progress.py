"""What a learner has done, in one small file that survives crashes.

It is written beside and renamed over (rename(2) is atomic), so there is always a whole file. A damaged one is set
aside, never thrown away, and the learner is told where it lies.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec

from lab import paths
from lab.core.errors import LabError


class Prediction(msgspec.Struct, frozen=True):
    """A prediction as it was committed, and how near it came (empty while the truth is not known)."""

    said: str
    nearness: str = ""


class LessonRecord(msgspec.Struct, frozen=True):
    """One lesson: finished when (seconds since 1970, None: not yet), and what was predicted."""

    finished: float | None = None
    predictions: dict[str, Prediction] = {}


class _File(msgspec.Struct, frozen=True):
    version: int = 1
    lessons: dict[str, LessonRecord] = {}


class Progress:
    """The file at `file`, read once, written with every change.

    `notice` is a sentence for the learner when the file was damaged and set aside; empty otherwise.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.notice = ""
        self._content = self._read()

    def done(self, lesson: str) -> bool:
        """Whether the lesson was finished."""
        return self.record(lesson).finished is not None

    def record(self, lesson: str) -> LessonRecord:
        """What is known of a lesson; an empty record for one that was never begun."""
        return self._content.lessons.get(lesson, LessonRecord())

    def predicted(self, lesson: str, prediction: str, said: str, nearness: str = "") -> None:
        """Keep a prediction. Raises `LabError` when the file cannot be written."""
        record = self.record(lesson)
        predictions = {**record.predictions, prediction: Prediction(said, nearness)}
        self._write(lesson, msgspec.structs.replace(record, predictions=predictions))

    def finish(self, lesson: str, wall: float) -> None:
        """The lesson was finished at `wall` (seconds since 1970). Raises `LabError` when the file cannot be written."""
        self._write(lesson, msgspec.structs.replace(self.record(lesson), finished=wall))

    def _read(self) -> _File:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_File)
        except FileNotFoundError:
            return _File()
        except OSError as error:
            self.notice = f"{self._file} cannot be read ({error.strerror}): your progress begins anew in this session."
            return _File()
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            aside = self._set_aside()
            self.notice = f"{self._file} was damaged ({error}). It lies at {aside} now; your progress begins anew."
            return _File()

    def _set_aside(self) -> Path:
        """Rename the damaged file to a name that is free, so that an earlier one is not lost either."""
        number = 1
        while (aside := self._file.with_name(f"{self._file.name}.damaged-{number}")).exists():
            number += 1
        self._file.rename(aside)
        return aside

    def _write(self, lesson: str, record: LessonRecord) -> None:
        self._content = _File(lessons={**self._content.lessons, lesson: record})
        try:
            self._replace(msgspec.json.format(msgspec.json.encode(self._content), indent=2) + b"\n")
        except OSError as error:
            reason = f"{self._file} cannot be written ({error.strerror}): your progress is not kept."
            raise LabError(reason, "The lesson goes on all the same.") from error

    def _replace(self, content: bytes) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._file.parent, prefix=self._file.name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._file)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise


def load() -> Progress:
    """The progress of the user who runs the lab."""
    return Progress(paths.state() / "progress.json")
