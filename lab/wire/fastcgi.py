"""FastCGI 1.0 records, both sides of the conversation: the web server's, which asks, and the application's.

A connection carries one request at a time here, with number 1: PHP, and nearly everything else that speaks FastCGI, can
do no more, and says so (FCGI_MPXS_CONNS). The other side is not trusted: what the specification does not allow is a
`BadMessageError`, never a guess, and whatever is kept of it is bounded. Sections are those of the specification at
fastcgi-archives.github.io/FastCGI_Specification.html.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Final

import msgspec

from lab.wire.http1 import BadMessageError


class Kind(IntEnum):
    """What a record is (8, FCGI_BEGIN_REQUEST and so on)."""

    BEGIN_REQUEST = 1
    ABORT_REQUEST = 2
    END_REQUEST = 3
    PARAMS = 4
    STDIN = 5
    STDOUT = 6
    STDERR = 7
    DATA = 8
    GET_VALUES = 9
    GET_VALUES_RESULT = 10
    UNKNOWN_TYPE = 11


class Role(IntEnum):
    """What an application is asked to be (6). Only responders answer requests."""

    RESPONDER = 1
    AUTHORIZER = 2
    FILTER = 3


class Ending(IntEnum):
    """How a request ended for the protocol (5.5, protocolStatus)."""

    REQUEST_COMPLETE = 0
    CANT_MPX_CONN = 1
    """The connection carries a request already."""
    OVERLOADED = 2
    UNKNOWN_ROLE = 3


LARGEST: Final = 65535
"""Bytes of content in one record."""

REQUEST: Final = 1
"""The number of every request: there is only one at a time."""

MANAGEMENT: Final = 0
"""The number of records that belong to no request (4)."""

STDERR_KEPT: Final = 4096
"""Bytes of a request's FCGI_STDERR that are kept."""

_PARAMS_LIMIT = 256 * 1024
_KEEP_CONN = 1
_HEADER = struct.Struct("!BBHHBx")
_LONG = struct.Struct("!I")
_BEGIN = struct.Struct("!HB5x")
_END = struct.Struct("!IB3x")
_PADDING = tuple(bytes(size) for size in range(8))
_BEGINNING = {
    keep: _HEADER.pack(1, Kind.BEGIN_REQUEST, REQUEST, _BEGIN.size, 0) + _BEGIN.pack(Role.RESPONDER, keep)
    for keep in (False, True)
}

# By name and as plain numbers: on Python 3.11 each look-up in an enum costs as much as a call.
_PARAMS, _STDIN, _STDOUT, _STDERR = map(int, (Kind.PARAMS, Kind.STDIN, Kind.STDOUT, Kind.STDERR))
_END_REQUEST = int(Kind.END_REQUEST)
_ENDINGS = {int(ending): ending for ending in Ending}
_COMPLETE = Ending.REQUEST_COMPLETE


# -- records


def record(kind: int, request: int, content: bytes = b"") -> bytes:
    """One record with at most `LARGEST` bytes of content, padded to a multiple of eight (3.3). Empty ends a stream."""
    size = len(content)
    padding = -size & 7
    return _HEADER.pack(1, kind, request, size, padding) + content + _PADDING[padding]


def stream(kind: int, content: bytes) -> bytes:
    """As many records as `content` needs; none for nothing, because an empty record would end the stream."""
    if len(content) <= LARGEST:
        return record(kind, REQUEST, content) if content else b""
    pieces = (content[place : place + LARGEST] for place in range(0, len(content), LARGEST))
    return b"".join(record(kind, REQUEST, piece) for piece in pieces)


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record that arrived, without its padding."""

    kind: int
    request: int
    content: bytes


class Records:
    """Bytes to records. Holds back at most one incomplete record, which is no longer than 64 KiB and a bit."""

    __slots__ = ("_held", "_status")

    def __init__(self, status: int) -> None:
        """What is no record deserves `status`: 502 for an application's bytes, 400 for a web server's."""
        self._status = status
        self._held = b""

    @property
    def torn(self) -> bool:
        """A record has begun and is not complete."""
        return bool(self._held)

    def feed(self, data: bytes) -> list[Record]:
        """The records that are complete now, in order. Raises `BadMessageError` for another version than 1."""
        data = self._held + data if self._held else data
        place, size = 0, len(data)
        records = []
        while size - place >= 8:
            version, kind, request, length, padding = _HEADER.unpack_from(data, place)
            content = place + 8
            after = content + length + padding
            if version != 1 or after > size:
                break
            records.append(Record(kind, request, data[content : content + length]))
            place = after
        self._held = data[place:]
        if place < size and data[place] != 1:
            raise BadMessageError(self._status, f"A FastCGI record has version {data[place]}; expected 1.")
        return records


# -- names and values

_PARAMS_END = record(_PARAMS, REQUEST)


def pair(name: bytes, value: bytes) -> bytes:
    """A name and its value (3.4): lengths up to 127 take one byte, others four."""
    return _length(len(name)) + _length(len(value)) + name + value


def pairs(variables: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Each of them as `pair` has it. Nearly all are short, and take one expression: 2 us instead of 5 for a request."""
    return [
        b"%c%c%b%b" % (len(name), len(value), name, value) if len(name) < 128 > len(value) else pair(name, value)
        for name, value in variables
    ]


def parse_pairs(content: bytes, status: int) -> dict[bytes, bytes]:
    """Names and values. Raises `BadMessageError` with `status` when the last of them is torn."""
    found = {}
    place = 0
    while place < len(content):
        name, place = _parse_length(content, place, status)
        value, place = _parse_length(content, place, status)
        middle, end = place + name, place + name + value
        if end > len(content):
            raise BadMessageError(status, f"A name-value pair ends {end - len(content)} bytes behind its record.")
        found[content[place:middle]] = content[middle:end]
        place = end
    return found


def params(pairs: Sequence[bytes]) -> bytes:
    """The FCGI_PARAMS stream of encoded pairs, with its end.

    A pair is never split over two records, which the specification would allow: PHP reads each record by itself
    (main/fastcgi.c, fcgi_read_request). Raises `BadMessageError` with 431 for a pair that fits into none.
    """
    whole = b"".join(pairs)
    if len(whole) <= LARGEST:
        return stream(_PARAMS, whole) + _PARAMS_END
    contents = [b""]
    for one in pairs:
        if len(one) > LARGEST:
            raise BadMessageError(431, f"A field is longer than {LARGEST} bytes, the most that FastCGI can carry.")
        if len(contents[-1]) + len(one) > LARGEST:
            contents.append(b"")
        contents[-1] += one
    return b"".join(record(_PARAMS, REQUEST, content) for content in contents) + _PARAMS_END


def _length(size: int) -> bytes:
    return size.to_bytes(1, "big") if size < 128 else _LONG.pack(size | 0x80000000)


def _parse_length(content: bytes, place: int, status: int) -> tuple[int, int]:
    """A length, and where what follows begins."""
    if place < len(content) and content[place] < 128:
        return content[place], place + 1
    if place + 4 > len(content):
        raise BadMessageError(status, "The length of a name or value is torn.")
    return _LONG.unpack_from(content, place)[0] & 0x7FFFFFFF, place + 4


# -- asking an application about itself


def get_values(names: Iterable[str]) -> bytes:
    """A question for an application's variables, such as FCGI_MPXS_CONNS (4.1)."""
    return record(Kind.GET_VALUES, MANAGEMENT, b"".join(pair(name.encode(), b"") for name in names))


def values(data: bytes) -> dict[str, str] | None:
    """The answer to `get_values`; None while it is incomplete. Those that the application does not know are missing.

    Raises `BadMessageError` with status 502 when `data` begins with anything else.
    """
    records = Records(502).feed(data)
    if not records:
        return None
    first = records[0]
    if first.kind != Kind.GET_VALUES_RESULT or first.request != MANAGEMENT:
        raise BadMessageError(502, f"It answered FCGI_GET_VALUES with {_name(first)}; expected FCGI_GET_VALUES_RESULT.")
    found = parse_pairs(first.content, 502)
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in found.items()}


def _name(found: Record) -> str:
    kinds = {int(kind): f"FCGI_{kind.name}" for kind in Kind}
    return f"{kinds.get(found.kind, f'a record of type {found.kind}')} of request {found.request}"


# -- the web server's side


def request_head(pairs: Sequence[bytes], keep: bool) -> bytes:
    """The beginning of a request to a responder: everything before its body. `keep`: the connection stays open."""
    return _BEGINNING[keep] + params(pairs)


STDIN_END: Final = record(_STDIN, REQUEST)
"""The request's body has ended."""

ABORT: Final = record(Kind.ABORT_REQUEST, REQUEST)
"""Nobody waits for the answer any more (5.4)."""


class Reply:
    """What an application answers to one request: what it writes, and how it ends."""

    __slots__ = ("_closed", "_records", "app_status", "begun", "done", "ending", "errors", "rest")

    def __init__(self) -> None:
        self._records = Records(502)
        self._closed = False
        self.begun = False
        """A byte of it has arrived."""
        self.done = False
        """The application has ended the request."""
        self.rest = False
        """Something came behind its end, which nobody asked for."""
        self.errors = b""
        """What it wrote to FCGI_STDERR, as far as it is kept."""
        self.app_status = 0
        """Its exit status, as a CGI program would have had it (5.5)."""
        self.ending = _COMPLETE

    def feed(self, data: bytes) -> bytes:
        """What `data` adds to FCGI_STDOUT. Raises `BadMessageError` with status 502."""
        self.begun = True
        pieces = []
        for found in self._records.feed(data):
            if self.done:
                self.rest = True
                break
            if found.request != REQUEST:
                raise BadMessageError(502, f"It sent {_name(found)}; there is only request {REQUEST}.")
            if found.kind == _STDOUT:
                pieces.append(self._output(found.content))
            elif found.kind == _STDERR:
                self.errors += found.content[: STDERR_KEPT - len(self.errors)]
            elif found.kind == _END_REQUEST:
                self._end(found.content)
            else:
                raise BadMessageError(502, f"It sent {_name(found)}, which only a web server sends.")
        if self.done and self._records.torn:
            self.rest = True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _output(self, content: bytes) -> bytes:
        if self._closed and content:
            raise BadMessageError(502, "It sent FCGI_STDOUT behind the end of that stream.")
        self._closed = not content
        return content

    def _end(self, content: bytes) -> None:
        if len(content) != _END.size:
            raise BadMessageError(502, f"Its FCGI_END_REQUEST has {len(content)} bytes; expected {_END.size}.")
        self.app_status, ending = _END.unpack(content)
        if ending not in _ENDINGS:
            raise BadMessageError(502, f"Its FCGI_END_REQUEST has protocol status {ending}; expected 0 to 3.")
        self.ending = _ENDINGS[ending]
        self.done = True


# -- the application's side


class Begun(msgspec.Struct, frozen=True):
    """A request whose parameters are complete; its body follows."""

    params: dict[bytes, bytes]
    keep: bool
    """The web server would send another request on this connection."""


class Body(msgspec.Struct, frozen=True):
    """A piece of a request's body; the last one is empty."""

    piece: bytes


class Aborted(msgspec.Struct, frozen=True):
    """The web server waits no more for an answer, but still for `end_request`."""


Incoming = Begun | Body | Aborted


class Application:
    """The application's side of one connection. After each `feed`, send what `take` gives.

    It refuses by itself what it cannot do: a second request while one is open, roles other than responder, management
    records that it does not know. It serves request numbers other than 1 as well.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        """`variables` answer FCGI_GET_VALUES."""
        self._records = Records(400)
        self._variables = {name.encode(): value.encode() for name, value in variables.items()}
        self._request = MANAGEMENT
        self._keep = False
        self._params: list[bytes] | None = None
        """Content of the FCGI_PARAMS so far; None when they are complete."""
        self._answers = b""

    def feed(self, data: bytes) -> list[Incoming]:
        """What `data` says about the open request, in order. Raises `BadMessageError` with status 400 or 431."""
        found = (self._record(one) for one in self._records.feed(data))
        return [one for one in found if one is not None]

    def take(self) -> bytes:
        """What has to be sent; it is given once."""
        answers, self._answers = self._answers, b""
        return answers

    def write(self, content: bytes, kind: Kind = Kind.STDOUT) -> None:
        """A piece of the answer, or with `Kind.STDERR` of complaints."""
        pieces = (content[place : place + LARGEST] for place in range(0, len(content), LARGEST))
        self._answers += b"".join(record(kind, self._request, piece) for piece in pieces)

    def end_request(self, app_status: int = 0, ending: Ending = Ending.REQUEST_COMPLETE) -> None:
        """The request is answered. Unless `Begun.keep`, hang up when this is sent."""
        if ending is Ending.REQUEST_COMPLETE:
            self._answers += record(Kind.STDOUT, self._request)
        self._end(self._request, app_status, ending)
        self._request = MANAGEMENT

    def _end(self, request: int, app_status: int, ending: Ending) -> None:
        self._answers += record(Kind.END_REQUEST, request, _END.pack(app_status, ending))

    def _record(self, found: Record) -> Incoming | None:
        if found.request == MANAGEMENT:
            self._answers += self._manage(found)
        elif found.kind == Kind.BEGIN_REQUEST:
            self._begin(found)
        elif found.request != self._request:
            return None  # of a request that has ended, or was refused: to be ignored (3.3)
        elif found.kind == Kind.PARAMS and self._params is not None:
            return self._parameters(self._params, found.content)
        elif found.kind == Kind.STDIN and self._params is None:
            return Body(found.content)
        elif found.kind == Kind.ABORT_REQUEST:
            return Aborted()
        else:
            raise BadMessageError(400, f"There came {_name(found)}, out of turn.")
        return None

    def _manage(self, found: Record) -> bytes:
        if found.kind != Kind.GET_VALUES:
            return record(Kind.UNKNOWN_TYPE, MANAGEMENT, bytes((found.kind,)) + bytes(7))
        known = (name for name in parse_pairs(found.content, 400) if name in self._variables)
        pairs = b"".join(pair(name, self._variables[name]) for name in known)
        return record(Kind.GET_VALUES_RESULT, MANAGEMENT, pairs)

    def _begin(self, found: Record) -> None:
        if len(found.content) != _BEGIN.size:
            raise BadMessageError(400, f"An FCGI_BEGIN_REQUEST has {len(found.content)} bytes; expected {_BEGIN.size}.")
        role, flags = _BEGIN.unpack(found.content)
        if self._request != MANAGEMENT:
            self._end(found.request, 0, Ending.CANT_MPX_CONN)
        elif role != Role.RESPONDER:
            self._end(found.request, 0, Ending.UNKNOWN_ROLE)
        else:
            self._request, self._keep, self._params = found.request, bool(flags & _KEEP_CONN), []

    def _parameters(self, contents: list[bytes], content: bytes) -> Begun | None:
        contents.append(content)
        if sum(map(len, contents)) > _PARAMS_LIMIT:
            raise BadMessageError(431, f"The parameters are longer than {_PARAMS_LIMIT} bytes.")
        if content:
            return None
        self._params = None
        return Begun(parse_pairs(b"".join(contents), 400), self._keep)
