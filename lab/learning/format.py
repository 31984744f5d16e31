"""A lesson as it lies in its folder: `lesson.toml` for the machine, `text.en.md` for the person; as one frozen value.

What is read is whole: every key is known, every expression is in the language, every text that the toml names exists
and every section of the text is used. Otherwise `ConfigError` names file, key, what was found and what is expected.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from lab.config import documents
from lab.core.errors import ConfigError
from lab.core.model import Count, Liveness, Name, Seconds, Selection, Some
from lab.core.states import Policy
from lab.learning import expressions, prose
from lab.learning.observation import NAMES
from lab.learning.prose import Prose, Section

ALWAYS = ("meet", "read-on", "teach")
"""Sections that every lesson ends with: where you meet this, what to read on, and a word to the instructor."""


class Level(StrEnum):
    """Whom a lesson is for."""

    BEGINNER = "beginner"
    INTERMEDIATE = "intermediate"
    ADVANCED = "advanced"


class Action(StrEnum):
    """What a learner does in a lesson, besides answering its questions."""

    REQUEST = "request"
    KILL = "kill"
    FREEZE = "freeze"
    THAW = "thaw"
    COPY = "copy"
    AGAIN = "again"
    SKIP = "skip"
    CONTINUE = "continue"


class Noise(StrEnum):
    """What a check answers when its runs do not agree."""

    UNKNOWN = "unknown"
    FAIL = "fail"


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of lesson.toml."""


class App(_Part, frozen=True, kw_only=True):
    """One app of the set-up."""

    name: Name
    route: str
    sample: str
    """A folder of samples/."""
    language: tuple[str, ...]
    """In order of preference: the first one that this machine can run is taken."""
    workers: Some
    concurrency: Some = 1
    policy: Policy = Policy.STATIC
    selection: Selection = "round_robin"
    liveness: Liveness = Liveness()


class Setup(_Part, frozen=True, kw_only=True):
    """The state that the lab is brought to, and back from."""

    apps: Annotated[tuple[App, ...], Meta(min_length=1)]
    traffic: Seconds = 5.0
    """The lab's own requests/s to the first app; a step may ask for another rate."""


class Check(_Part, frozen=True, kw_only=True):
    """What must hold after a step, and not before it."""

    id: str
    expr: str
    runs: Some = 1
    need: Some = 1
    on_noise: Noise = Noise.UNKNOWN


class Hint(_Part, frozen=True, kw_only=True):
    """A word of help when a check stays open."""

    on: str
    after_seconds: Seconds
    text: str


class Say(_Part, frozen=True, kw_only=True):
    """What is told when a step is done: the first one of the step whose `when` holds."""

    text: str
    when: str = "True"


class Step(_Part, frozen=True, kw_only=True):
    """One thing to do, or to answer, and to read."""

    id: str
    scene: Some
    predict: str | None = None
    """A prediction that is committed before anything else in this step is possible."""
    settles: str | None = None
    """The prediction whose truth is known when this step is done."""
    ask: str | None = None
    """A question about the cause, put when the checks have passed."""
    allow: tuple[Action, ...] = ()
    target: Count | None = None
    """The slot that this step is about; without it, Kill takes a worker at random."""
    traffic: Seconds | None = None
    seconds: Seconds | None = None
    """A timed step: it runs this long from the first action on."""
    copy: str | None = None
    """What Copy copies: a template, or without it the text on the screen."""
    check: tuple[Check, ...] = ()
    hint: tuple[Hint, ...] = ()
    say: tuple[Say, ...] = ()
    walk: tuple[str, ...] = ()
    """How the verification does this step: actions, or `outside kill` for a signal sent by another process."""


class Scale(StrEnum):
    """How near a prediction comes to the truth."""

    CHOICE = "choice"
    """The same or not."""
    LOG = "log"
    """Within a factor of 3 is close."""


class Predict(_Part, frozen=True, kw_only=True):
    """A prediction: its options stand in the text, their values here, in the same order."""

    id: str
    truth: str
    values: Annotated[tuple[str, ...], Meta(min_length=2, max_length=9)]
    scale: Scale = Scale.CHOICE


class Ask(_Part, frozen=True, kw_only=True):
    """A question about the cause. Every option has its reply in the text; `right` is the number of the best one."""

    id: str
    right: Some


class Invariant(_Part, frozen=True, kw_only=True):
    """What holds at every instant of the lesson."""

    always: tuple[str, ...] = ()


class _Toml(_Part, frozen=True, kw_only=True):
    """lesson.toml as written."""

    format_version: Annotated[int, Meta(ge=1, le=1)]
    id: Name
    level: Level
    minutes: Some
    needs: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    setup: Setup
    step: Annotated[tuple[Step, ...], Meta(min_length=1)]
    predict: tuple[Predict, ...] = ()
    ask: tuple[Ask, ...] = ()
    invariant: Invariant = Invariant()


class Lesson(msgspec.Struct, frozen=True):
    """A lesson, whole and checked."""

    toml: _Toml
    prose: Prose
    folder: str

    @property
    def id(self) -> str:
        return self.toml.id

    @property
    def title(self) -> str:
        return self.prose.title

    @property
    def scenes(self) -> int:
        """How many scenes there are: a scene is one or more steps."""
        return max(step.scene for step in self.toml.step)

    def section(self, key: str) -> Section:
        return self.prose.sections[key]

    def prediction(self, key: str) -> Predict:
        return next(one for one in self.toml.predict if one.id == key)

    def question(self, key: str) -> Ask:
        return next(one for one in self.toml.ask if one.id == key)


def read(folder: Path) -> Lesson:
    """The lesson in `folder`. Raises `ConfigError`."""
    file, text = folder / "lesson.toml", folder / "text.en.md"
    toml = documents.convert(documents.read(file), _Toml, file)
    try:
        lesson = Lesson(toml, prose.parse(_content(text).decode()), folder.name)
    except ValueError as error:
        raise ConfigError(f"{text}: {error}.") from error
    for complaint in _wrong_meaning(toml):
        raise ConfigError(f"{file}: {complaint}.")
    for complaint in _wrong_text(lesson):
        raise ConfigError(f"{text}: {complaint}.")
    return lesson


def text_keys(toml: _Toml) -> set[str]:
    """The sections that the text has to have, exactly."""
    keys = {*ALWAYS, *(step.id for step in toml.step)}
    keys |= {f"predict-{one.id}" for one in toml.predict} | {f"ask-{one.id}" for one in toml.ask}
    for step in toml.step:
        keys |= {f"check-{check.id}" for check in step.check}
        keys |= {hint.text for hint in step.hint} | {say.text for say in step.say}
    return keys


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}.") from error


def _wrong_meaning(toml: _Toml) -> Iterator[str]:
    """References that lead nowhere, and expressions that are not in the language."""
    predictions, questions = {one.id for one in toml.predict}, {one.id for one in toml.ask}
    for place, step in enumerate(toml.step):
        where = f"step[{place}]"
        for key, found, known in (
            ("predict", step.predict, predictions),
            ("settles", step.settles, predictions),
            ("ask", step.ask, questions),
        ):
            if found is not None and found not in known:
                yield f"{where}.{key}: found {found!r}; expected one of: {', '.join(sorted(known)) or 'none'}"
        checks = {check.id for check in step.check}
        for hint in step.hint:
            if hint.on not in checks:
                yield f"{where}.hint: found on = {hint.on!r}; expected one of: {', '.join(sorted(checks)) or 'none'}"
        for check in step.check:
            if check.need > check.runs:
                yield f"{where}.check: {check.id!r} needs {check.need} of {check.runs} runs; expected at most all"
            if check.runs > 1 and step.seconds is None:
                yield f"{where}.check: {check.id!r} has {check.runs} runs; expected a timed step"
        if step.copy is not None:
            yield from _wrong_templates(f"{where}.copy", step.copy)
    for where, source in _sources(toml):
        yield from _wrong_expression(where, source)


def _sources(toml: _Toml) -> Iterator[tuple[str, str]]:
    for place, step in enumerate(toml.step):
        yield from ((f"step[{place}].check[{n}].expr", check.expr) for n, check in enumerate(step.check))
        yield from ((f"step[{place}].say[{n}].when", say.when) for n, say in enumerate(step.say))
    for place, prediction in enumerate(toml.predict):
        yield f"predict[{place}].truth", prediction.truth
        yield from ((f"predict[{place}].values[{n}]", value) for n, value in enumerate(prediction.values))
    yield from ((f"invariant.always[{n}]", source) for n, source in enumerate(toml.invariant.always))


def _wrong_expression(where: str, source: str) -> Iterator[str]:
    try:
        expressions.read(source, NAMES)
    except expressions.ExpressionError as error:
        yield f"{where}: {error}"


def _wrong_templates(where: str, text: str) -> Iterator[str]:
    try:
        sources = prose.templates(text)
    except ValueError as error:
        yield f"{where}: template: {error}"
        return
    for source in sources:
        yield from _wrong_expression(where, source)


def _wrong_text(lesson: Lesson) -> Iterator[str]:
    wanted, found = text_keys(lesson.toml), set(lesson.prose.sections)
    for key in sorted(wanted - found):
        near = get_close_matches(key, found - wanted, 1)
        yield f"found no section '## {key}', which lesson.toml needs" + (f"; there is '## {near[0]}'" if near else "")
    for key in sorted(found - wanted):
        near = get_close_matches(key, wanted, 1)
        hint = f"the nearest known key is {near[0]!r}" if near else "remove it, or name it in lesson.toml"
        yield f"found the section '## {key}', which lesson.toml does not use; {hint}"
    yield from _wrong_options(lesson)
    for section in lesson.prose.sections.values():
        for text in (*section.paragraphs, *(part for one in section.options for part in (one.text, one.reply))):
            yield from _wrong_templates(f"## {section.key}", text)


def _wrong_options(lesson: Lesson) -> Iterator[str]:
    sections: Mapping[str, Section] = lesson.prose.sections
    for prediction in lesson.toml.predict:
        options = len(sections[f"predict-{prediction.id}"].options)
        if options != len(prediction.values):
            yield f"## predict-{prediction.id}: found {options} options; expected {len(prediction.values)}, one a value"
    for ask in lesson.toml.ask:
        options_of = sections[f"ask-{ask.id}"].options
        if ask.right > len(options_of):
            yield f"## ask-{ask.id}: found {len(options_of)} options; expected at least {ask.right}: that one is right"
        for option in options_of:
            if not option.reply:
                yield f"## ask-{ask.id}: found no reply to {option.text!r}; expected a line '> ...' below it"
