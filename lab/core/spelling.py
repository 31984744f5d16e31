"""How a wrong word is shown, which one was probably meant (every error about a name says both), and one beside many."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_SHOWN = 60
"""Characters of a wrong value that are quoted."""


def meant(word: str, choices: Iterable[str]) -> str:
    """`Did you mean "python"?`; empty when no choice is close."""
    close = get_close_matches(word, sorted(choices), n=1)
    return f"Did you mean {quoted(close[0])}?" if close else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy for a word that is not known: the one that was probably meant, or all there are."""
    choices = sorted(known)
    return meant(word, choices) or f"Known: {', '.join(choices) or 'none'}."


def quoted(value: Any) -> str:
    """A wrong value as it may stand in a sentence: as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def counted(number: int, one: str, several: str = "") -> str:
    """`1 worker`, `2 workers`, `2 processes`: `several` is for nouns to which more than an s is added."""
    return f"1 {one}" if number == 1 else f"{number} {several or one + 's'}"
