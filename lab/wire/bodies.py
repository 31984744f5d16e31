"""Bodies as they arrive: by count, in chunks, or until the connection ends. Each gives payload and says when it ends.

Chunks are where requests are smuggled, so sizes are plain hexadecimal digits, lines end in CR LF, and everything that
is not payload is bounded. Extensions are dropped (RFC 9112 7.1.1); trailers are kept apart from payload.
"""

import re
from enum import Enum, auto
from typing import Final, Protocol

from lab.wire.headers import FIELD, allowed_trailers
from lab.wire.http1 import CHUNKED, UNTIL_CLOSE, BadMessageError

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*+;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_TRAILERS = re.compile(rb"((?:" + FIELD + rb")*+)\r\n")
_SIZE_LINE_LIMIT = 1024
_EXTENSIONS_LIMIT = 16 * 1024
_TRAILERS_LIMIT = 8 * 1024

LAST_CHUNK = b"0\r\n"


class Body(Protocol):
    """A body that arrives piece by piece."""

    done: bool
    """All of it has arrived."""
    rest: bytes
    """What arrived behind its end, once it is done."""
    trailers: bytes
    """Field lines that came after it and may travel on."""

    @property
    def whole(self) -> bool:
        """All that was promised of it is here, though it has not ended: what breaks now breaks nothing off."""
        ...

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`. Raises `BadMessageError` when the framing is wrong."""
        ...


def incoming(length: int, status: int, dropped: tuple[bytes, ...] = ()) -> Body:
    """A reader for a body of `length` (bytes, `CHUNKED` or `UNTIL_CLOSE`); bad framing deserves `status`.

    `dropped`: fields that may not come as trailers, because the head's Connection names them.
    """
    if length == CHUNKED:
        return ChunkedBody(status, dropped)
    return EndlessBody() if length == UNTIL_CLOSE else CountedBody(length)


def chunk(payload: bytes) -> bytes:
    """One chunk that carries `payload`, or nothing for none: an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


class CountedBody:
    """A body of a known number of bytes."""

    __slots__ = ("_left", "done", "rest", "trailers")

    whole: Final = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.rest = self.trailers = b""

    def feed(self, data: bytes) -> bytes:
        size = len(data)
        if size < self._left:
            self._left -= size
            return data
        payload, self.rest = (data, b"") if size == self._left else (data[: self._left], data[self._left :])
        self._left, self.done = 0, True
        return payload


class EndlessBody:
    """A body that ends when its connection does."""

    __slots__ = ("done", "rest", "trailers")

    whole: Final = False

    def __init__(self) -> None:
        self.done = False
        self.rest = self.trailers = b""

    def feed(self, data: bytes) -> bytes:
        return data


class _At(Enum):
    SIZE = auto()
    PAYLOAD = auto()
    TRAILERS = auto()


class ChunkedBody:
    """A body in chunks. Holds back at most one incomplete size line or trailer section."""

    __slots__ = ("_at", "_dropped", "_extensions", "_held", "_left", "_status", "done", "rest", "trailers")

    whole: Final = False

    def __init__(self, status: int, dropped: tuple[bytes, ...] = ()) -> None:
        self._status = status
        self._dropped = dropped
        self._at = _At.SIZE
        self._left = 0
        self._held = b""
        self._extensions = 0
        self.done = False
        self.rest = self.trailers = b""

    def feed(self, data: bytes) -> bytes:
        data, self._held = self._held + data, b""
        place = 0
        pieces: list[bytes] = []
        while not self.done and place < len(data):
            if self._at is _At.PAYLOAD:
                place = self._payload(data, place, pieces)
            else:
                after = self._size(data, place) if self._at is _At.SIZE else self._trailers(data, place)
                if after is None:
                    self._held = data[place:]
                    break
                place = after
        if self.done:
            self.rest = data[place:]
        return b"".join(pieces)

    def _size(self, data: bytes, place: int) -> int | None:
        line = _SIZE_LINE.match(data, place)
        if line is None:
            begin = data[place : place + _SIZE_LINE_LIMIT]
            if b"\n" in begin or b"\r" in begin[:-1] or len(begin) == _SIZE_LINE_LIMIT or not _may_grow(begin):
                self._refuse(f"A chunk's size line is {begin[:40]!r}; expected hexadecimal digits and CR LF.")
            return None
        self._extensions += line.end() - line.end(1) - 2
        if self._extensions > _EXTENSIONS_LIMIT or line.end() - place > _SIZE_LINE_LIMIT:
            self._refuse(f"Chunk extensions are longer than {_EXTENSIONS_LIMIT} bytes.")
        self._left = int(line[1], 16)
        self._at = _At.PAYLOAD if self._left else _At.TRAILERS
        # The CR LF behind the payload is counted with it, and cut off in _payload.
        self._left += 2
        return line.end()

    def _payload(self, data: bytes, place: int, pieces: list[bytes]) -> int:
        taken = data[place : place + self._left]
        before, self._left = self._left, self._left - len(taken)
        payload = before - 2
        if payload > 0:
            pieces.append(taken[:payload])
        end = taken[max(payload, 0) :]
        if not b"\r\n".endswith(end) if self._left == 0 else not b"\r\n".startswith(end):
            self._refuse(f"Behind a chunk came {end!r}; expected CR LF.")
        if self._left == 0:
            self._at = _At.SIZE
        return place + len(taken)

    def _trailers(self, data: bytes, place: int) -> int | None:
        section = _TRAILERS.match(data, place)
        if section is None:
            begin = data[place:]
            complete = b"\r\n\r\n" in begin or begin.startswith(b"\r\n")
            if complete or len(begin) > _TRAILERS_LIMIT or re.search(rb"(?<!\r)\n|\r(?!\n|\Z)", begin):
                self._refuse(f"The trailer section is {begin[:40]!r}; expected at most 8 KiB of Name: value lines.")
            return None
        if section.end() - place > _TRAILERS_LIMIT:
            self._refuse(f"The trailer section is longer than {_TRAILERS_LIMIT} bytes.")
        self.trailers = allowed_trailers(section[1], self._dropped)
        self.done = True
        return section.end()

    def _refuse(self, detail: str) -> None:
        raise BadMessageError(self._status, detail)


def _may_grow(begin: bytes) -> bool:
    """Whether an incomplete size line begins as one must."""
    return re.match(rb"[0-9A-Fa-f]{1,15}(?:[ \t]*+(?:;|\Z)|\r?\Z)", begin) is not None
