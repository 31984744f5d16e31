"""How a wrong word is shown, and which one was probably meant. Every error about a name says both."""

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
