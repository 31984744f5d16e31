"""What a person reads: `text.en.md`, cut into its sections, and templates filled with what was measured.

A section begins with `## key` or `## key: Title`. A paragraph ends at an empty line; its lines are joined, but a line
indented by four spaces stays as it is, and an item of a list (`- item`) begins a line of its own. In a question's
section every `- option` is a choice, and a `> reply` below it answers whoever chooses it.
Inline marks are `code`, **strong** and *emphasis*.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab.core import spelling
from lab.learning import expressions

_TEMPLATE = re.compile(r"\{\{(.+?)\}\}", re.DOTALL)
_MARKS = re.compile(r"(`+|\*\*|\*)(?=\S)(.+?)(?<=\S)\1")
_HEADING = re.compile(r"^## +([a-z0-9-]+)(?:: *(.+))?$")
NOT_SEEN = "(not seen)"
"""What a template reads whose value was not measured."""


@dataclass(frozen=True, slots=True)
class Option:
    """One choice of a question, and the reply to it."""

    text: str
    reply: str


@dataclass(frozen=True, slots=True)
class Section:
    """One `## key: Title` with its paragraphs and, if it is a question, its options. Templates are not filled yet."""

    key: str
    title: str
    paragraphs: tuple[str, ...]
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Prose:
    """A whole text: the lesson's title and its sections by key."""

    title: str
    sections: Mapping[str, Section]


def parse(text: str) -> Prose:
    """Cut `text` into sections. Raises `ValueError` that says which line is wrong."""
    title, found, key, heading, lines = "", dict[str, Section](), "", "", list[str]()
    for number, line in enumerate([*text.splitlines(), "## end"], 1):
        match = _HEADING.match(line)
        if line.startswith("# ") and not title:
            title = line[2:].strip()
        elif match is None and line.startswith("#"):
            raise ValueError(f"line {number}: found {line!r}; expected a heading such as '## key' or '## key: Title'")
        elif match is None:
            lines.append(line)
        else:
            if key in found:
                raise ValueError(f"line {number}: the section {key!r} above is there twice")
            if key:
                found[key] = _section(key, heading, lines)
            key, heading, lines = match[1], match[2] or "", []
    if not title:
        raise ValueError("found no title; expected a first line such as '# Three processes'")
    return Prose(title, found)


def templates(text: str) -> tuple[str, ...]:
    """The expressions between double braces in `text`. Raises `ValueError` for a brace without its partner."""
    if "{{" in (rest := _TEMPLATE.sub("", text)) or "}}" in rest:
        raise ValueError(f"found {rest!r}; expected every '{{{{' to be closed by '}}}}'")
    return tuple(match.strip() for match in _TEMPLATE.findall(text))


def fill(text: str, names: Mapping[str, Any]) -> str:
    """`text` with every template replaced by its value; what was not measured reads "(not seen)"."""
    return _TEMPLATE.sub(lambda match: _filled(match[1], names), text)


def plain(text: str) -> str:
    """`text` without inline marks, as line mode prints it."""
    return marked(text, lambda _, inner: inner)


def marked(text: str, replace: Callable[[str, str], str]) -> str:
    """`text` with every marked stretch replaced by `replace(mark, inner)`."""
    return _MARKS.sub(lambda match: replace(match[1], match[2]), text)


def spans(text: str) -> list[tuple[str, str]]:
    """`text` as (mark, stretch) pairs in order; the mark of plain stretches is empty."""
    found, end = [], 0
    for match in _MARKS.finditer(text):
        found += [("", text[end : match.start()]), (match[1], match[2])]
        end = match.end()
    return [pair for pair in [*found, ("", text[end:])] if pair[1]]


def shown(value: Any) -> str:
    """A value as prose has it: a fitting number of digits, lists with commas."""
    if value is None:
        return NOT_SEEN
    if isinstance(value, tuple):
        return ", ".join(map(shown, value))
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) < 10 else f"{value:,.0f}"
    return str(value)


def counted(number: int | None, noun: str) -> str:
    """`no requests`, `1 request`, `3 requests`."""
    if number is None:
        return f"{NOT_SEEN} {noun}s"
    return spelling.counted(number, noun) if number else f"no {noun}s"


def _filled(source: str, names: Mapping[str, Any]) -> str:
    try:
        return shown(expressions.read(source, names.keys()).value(names))
    except expressions.NotMeasuredError:
        return NOT_SEEN


def _section(key: str, title: str, lines: list[str]) -> Section:
    is_question = key.startswith(("predict-", "ask-"))
    first = next((place for place, line in enumerate(lines) if is_question and line.startswith("- ")), len(lines))
    return Section(key, title, _paragraphs(lines[:first]), _options(lines[first:]))


def _paragraphs(lines: list[str]) -> tuple[str, ...]:
    found: list[str] = []
    fresh = True
    for line in lines:
        if not line.strip():
            fresh = True
            continue
        kept = line if line.startswith("    ") else line.strip()
        if fresh:
            found.append(kept)
        else:
            found[-1] += f"\n{kept}" if kept.startswith(("    ", "- ")) else f" {kept}"
        fresh = False
    return tuple(found)


def _options(lines: list[str]) -> tuple[Option, ...]:
    options: list[list[str]] = []
    replying = False
    for line in (line.strip() for line in lines):
        if line.startswith("- "):
            options.append([line[2:], ""])
            replying = False
        elif line:
            replying = replying or line.startswith(">")
            options[-1][replying] += f" {line.removeprefix('>').strip()}"
    return tuple(Option(text.strip(), reply.strip()) for text, reply in options)
