"""Field lines: which of them belong to one connection only, and how a block of them is edited without taking it apart.

A gateway that parses every field into a dictionary and writes it out again pays for all of them and loses order and
spelling. Here the block stays the bytes that arrived; the few lines that must not travel on are cut out of it.
"""

import re
from collections.abc import Iterable

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
"""A field name, a method: `tchar` of RFC 9110 5.6.2, matched possessively (no backtracking, linear time)."""

FIELD = TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n"
"""One strict field line (RFC 9112 5): no space before the colon, no control character, ended by CR LF."""

HOP_BY_HOP = (b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade")
"""Fields that speak to the neighbour only (RFC 9110 7.6.1)."""

_CARRIES_ROUTING = re.compile(rb"host|content-length|transfer-encoding|forwarded|x-forwarded-.*|via", re.DOTALL)
_FIELD_LINE = re.compile(rb"(?m)^(" + TOKEN + rb"):[^\n]*\n")
"""Only at the beginning of a line: `GET /a:b` holds no field called a."""
_NOT_IN_TRAILERS = frozenset(
    {*HOP_BY_HOP, b"content-length", b"host", b"trailer", b"content-encoding", b"content-type", b"content-range"}
    | {b"authorization", b"cookie", b"set-cookie", b"cache-control", b"expect", b"max-forwards", b"range", b"age"}
    | {b"date", b"expires", b"location", b"retry-after", b"vary", b"warning", b"forwarded", b"proxy", b"via"}
    | {b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"pragma"}
    | {b"proxy-authorization", b"proxy-authenticate", b"www-authenticate", b"x-request-id", b"x-request-timeout-ms"}
)
"""Fields that frame, route, authenticate or qualify a message must not come late (RFC 9110 6.5.1)."""


def listed(value: bytes) -> tuple[bytes, ...]:
    """The members of a comma-separated list, in lower case; empty members are skipped (RFC 9110 5.6.1)."""
    stripped = (member.strip(b" \t") for member in value.lower().split(b","))
    return tuple(member for member in stripped if member)


def forbidden_option(options: Iterable[bytes]) -> bytes | None:
    """The first Connection option that would have a gateway remove a field which frames, routes or attributes."""
    return next((option for option in options if _CARRIES_ROUTING.fullmatch(option)), None)


def cut(data: bytes, start: int, end: int, spans: list[tuple[int, int]]) -> bytes:
    """`data[start:end]` without the given spans, which are absolute, ascending and disjoint."""
    kept = []
    for gone, back in spans:
        kept.append(data[start:gone])
        start = back
    kept.append(data[start:end])
    return b"".join(kept)


def without(lines: bytes, names: Iterable[bytes]) -> bytes:
    """Field lines (a start line may precede them) without those called by one of the lower-case `names`."""
    unwanted = frozenset(names)
    spans = [line.span() for line in _FIELD_LINE.finditer(lines) if line[1].lower() in unwanted]
    return cut(lines, 0, len(lines), spans)


def allowed_trailers(lines: bytes, dropped: Iterable[bytes] = ()) -> bytes:
    """Trailer lines without those that have no business in a trailer section, and without the lower-case `dropped`.

    With an underscore for a hyphen a name is the same to whoever makes variables of fields, as WSGI does.
    """
    names = {line[1].lower() for line in _FIELD_LINE.finditer(lines)}
    unwanted = {name for name in names if _is_barred(name.replace(b"_", b"-"))}
    return without(lines, unwanted.union(dropped))


def _is_barred(name: bytes) -> bool:
    return name in _NOT_IN_TRAILERS or name.startswith(b"x-forwarded-")


def value(lines: bytes, name: bytes) -> bytes | None:
    """The value of the first field called `name`, in any case, without the space around it; None when there is none."""
    found = re.search(rb"(?i)\n" + re.escape(name) + rb":[ \t]*+([^\r\n]*)", lines)
    return None if found is None else found[1].rstrip(b" \t")
