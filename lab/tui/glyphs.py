"""The signs that the screen is drawn with, in two sets: Unicode, and ASCII for terminals that have nothing else.

A state is told by its sign first and by its colour second, so both sets keep every state's sign apart from the others.
Every sign is one cell wide.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One set of signs. `bars` and `levels` go from empty to full."""

    ready: str
    standby: str
    starting: str
    frozen: str
    unhealthy: str
    ejected: str
    draining: str
    stopping: str
    dead: str
    waiting: str
    failed: str
    arrow: str
    wire: str
    fork: str
    tee: str
    corner: str
    pipe: str
    bars: str
    """Filling from the left, for horizontal bars."""
    levels: str
    """Filling from below, for columns."""
    cursor: str
    dot: str
    more: str
    tick: str
    axis: str
    braille: bool
    """Whether lines may be drawn with braille patterns (U+2800 to U+28FF)."""


UNICODE = Glyphs(
    ready="●",
    standby="◐",
    starting="○",
    frozen="‖",
    unhealthy="!",
    ejected="⊘",
    draining="▽",
    stopping="▼",
    dead="✗",
    waiting="◌",
    failed="■",
    arrow="▶",
    wire="─",
    fork="┬",
    tee="├",
    corner="└",
    pipe="│",
    bars=" ▏▎▍▌▋▊▉█",
    levels=" ▁▂▃▄▅▆▇█",
    cursor="▌",
    dot="·",
    more="…",
    tick="┬",
    axis="─",
    braille=True,
)

ASCII = Glyphs(
    ready="*",
    standby="%",
    starting="o",
    frozen="=",
    unhealthy="!",
    ejected="/",
    draining="v",
    stopping="V",
    dead="x",
    waiting="~",
    failed="#",
    arrow=">",
    wire="-",
    fork="+",
    tee="+",
    corner="+",
    pipe="|",
    bars=" -=#",
    levels=" .:#",
    cursor=">",
    dot="-",
    more="...",
    tick="+",
    axis="-",
    braille=False,
)


def of_terminal(environ: Mapping[str, str] = os.environ, encoding: str | None = None) -> Glyphs:
    """The set this terminal can show: ASCII on the Linux console, on a dumb terminal, and where text is not UTF-8."""
    spoken = (encoding or getattr(sys.__stdout__, "encoding", None) or "").lower().replace("-", "")
    if environ.get("TERM") in ("linux", "dumb") or spoken not in ("utf8", ""):
        return ASCII
    return UNICODE
