"""The conformance tables: what a gateway must do with given bytes, as data that is read beside the RFCs.

A table is a TOML file of cases (see README.md, Points 1 to 16). Each character of a text stands for one byte, and
`{a*70000}` for as many times that text, so a table shows every byte that matters and stays short enough to read.
"""

import re
import tomllib
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

TABLES: Final = Path(__file__).parent / "tables"

_REPEATED = re.compile(r"\{([^{}*]+)\*(\d+)\}", re.DOTALL)


class State(Enum):
    """What becomes of a connection when everything has been said."""

    OPEN = "open"
    CLOSED = "closed"
    """In order, by an end of the stream."""
    RESET = "reset"
    """So that nobody takes what came for complete."""


class Ending(Enum):
    """What a worker does behind its answer."""

    WAITS = "waits"
    CLOSES = "closes"
    RESETS = "resets"


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes in, and what becomes of them on both sides. Texts are still written as in the table: see `raw`."""

    point: Annotated[int, Meta(ge=1, le=16)]
    """Of the checklist in README.md."""
    name: str
    send: str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    """What the client sends."""
    more: str = ""
    """What it sends next, when it has the first answer."""
    together: bool = False
    """Only as it stands, not cut into segments: what the client gets depends on what comes at once."""
    status: tuple[int, ...]
    """Of every answer that it gets, interim ones included, in order."""
    connection: State = State.OPEN
    """The client's, afterwards."""
    body: str | None = None
    """Of the last answer, if that matters."""
    sees: tuple[str, ...] = ()
    """Lines that the last answer's head holds, once each."""
    unseen: tuple[str, ...] = ()
    """What it does not hold, in any spelling."""
    worker: tuple[str, ...] = ()
    """Every request that reaches the worker, whole, byte for byte, without the fields that the gateway adds and with
    the chunks of a body joined; none: nothing may reach it."""
    reaches: tuple[str, ...] = ()
    """Lines that the first of them holds, once each, among those that the gateway adds."""
    answer: str | None = None
    """What the worker says, byte for byte; a short answer of 200 unless given."""
    early: bool = False
    """It says so as soon as it has a request's head."""
    then: str = ""
    """What it says next, when the client has seen the head of that answer."""
    ends: Ending = Ending.WAITS
    upstream: State | None = None
    """What becomes of the worker's connection, if that matters."""
    wire: str = "http"
    """What the worker speaks: `http`, `fastcgi` or `cgi`."""
    variables: dict[str, str] = {}
    """For FastCGI: variables that it is told."""
    untold: tuple[str, ...] = ()
    """For FastCGI: variables that it is not told."""
    limits: dict[str, int] = {}

    @property
    def refused(self) -> bool:
        """The gateway itself answers."""
        return self.wire == "http" and not self.worker and not self.early

    @property
    def id(self) -> str:
        """Such as `p04-bare-lf-after-a-chunk-size`."""
        return f"p{self.point:02d}-" + re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def raw(text: str) -> bytes:
    """The bytes that a text of a table stands for."""
    before = ""
    while before != text:  # one may stand inside another
        before, text = text, _REPEATED.sub(lambda found: found[1] * int(found[2]), text)
    return text.encode("latin-1")


def load() -> list[Case]:
    """The cases of every table. Raises `ValueError` for a table that is not one, or two cases of one name."""
    cases: dict[str, Case] = {}
    for path in sorted(TABLES.glob("*.toml")):
        try:
            found = msgspec.convert(tomllib.loads(path.read_text())["case"], list[Case])
        except (msgspec.ValidationError, tomllib.TOMLDecodeError, KeyError) as error:
            raise ValueError(f"{path.name}: {error}; expected [[case]] tables as README.md tells them") from error
        for case in found:
            if cases.setdefault(case.id, case) is not case:
                raise ValueError(f"{path.name}: two cases are called {case.id}; expected a name for each")
    return list(cases.values())
