"""CGI/1.1 (RFC 3875): a request as variables, and a program's output as a response. FastCGI carries the same two.

What a client writes into a field reaches a program's environment under a name of its own, `HTTP_`, and only from names
of letters, digits and hyphens: `X_Forwarded_For` and `X.Forwarded.For` would both become HTTP_X_FORWARDED_FOR, in PHP
at the latest. A program's output is read as strictly as a worker's HTTP, but for the line feeds that RFC 3875 allows.
"""

import os
import re
from functools import lru_cache
from http import HTTPStatus
from typing import Final, final
from urllib.parse import unquote_to_bytes

import msgspec

from lab.wire.headers import HOP_BY_HOP, TOKEN, without
from lab.wire.http1 import CHUNKED, BadMessageError, RequestHead, ResponseHead, content_length, shown, with_length

Variables = list[tuple[bytes, bytes]]
"""Names and values, each name once."""

SOFTWARE: Final = b"cgilab"

_FIELDS_SENT = re.compile(rb"\n([0-9A-Za-z\-]++):[ \t]*+([^\r]*+)\r")
_EXPECTS = re.compile(rb"(?i)\nexpect:[ \t]*+100-continue[ \t]*+\r")
_NOT_PASSED = frozenset(
    {b"content-type", b"content-length", b"expect", b"authorization", b"host", b"connection", b"te"}
)

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BODY_FIELD = re.compile(rb"(?i)(?:content-[^:]*|expect)")

_LINE = TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r?\n"
_LINES = re.compile(rb"(?:" + _LINE + rb")*+")
_ANSWER = re.compile(rb"((?:" + _LINE + rb")*+)\r?\n")
_FIELD = re.compile(rb"(?m)^(" + TOKEN + rb"):[ \t]*+([^\r\n]*+)")
_CUT = (*HOP_BY_HOP, b"status")
_NOTABLE = re.compile(rb"(?im)^(location|content-type|content-length|" + b"|".join(_CUT) + rb"):[ \t]*+([^\r\n]*+)")
_STATUS = re.compile(rb"([2-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_LOCAL = re.compile(rb"/(?:[\x21\x22\x24-\x2e\x30-\x7e][\x21\x22\x24-\x7e]*+)?")
_ONCE = frozenset({b"status", b"location", b"content-type", b"content-length"})


class Script(msgspec.Struct, frozen=True):
    """The program that answers, in CGI's terms (RFC 3875 4.1.5, 4.1.13). Decoded, as bytes."""

    filename: bytes
    """SCRIPT_FILENAME: not in the RFC, but PHP finds its script by it."""
    name: bytes
    """The part of the path that leads to it; empty when that is the root."""
    path_info: bytes
    """The rest of the path."""
    root: bytes = b""
    """The document root; empty when there is none."""


# -- the request


def script_below(filename: str, route: str, target: bytes) -> Script:
    """The one program that answers everything below `route`: what lies behind it in `target` is its PATH_INFO.

    Raises `BadMessageError` with 400 for a path that cannot be a variable's value.
    """
    encoded, length, name = _placed(filename, route)
    path = target.partition(b"?")[0]
    path_info = path[length:]
    if b"%" in path:
        if _BAD_ESCAPE.search(path):
            raise BadMessageError(400, "A `%` in the path is not followed by two hexadecimal digits.")
        path_info = unquote_to_bytes(path_info)
    if b"\0" in path_info:
        raise BadMessageError(400, "The path contains a NUL byte.")
    return Script(encoded, name, path_info)


@lru_cache(maxsize=64)
def _placed(filename: str, route: str) -> tuple[bytes, int, bytes]:
    """A script's name in bytes, how much of a target leads to it, and that part decoded."""
    name = route.rstrip("/").encode()
    return os.fsencode(filename), len(name), unquote_to_bytes(name)


def constants(port: int, root: bytes, *, secure: bool) -> Variables:
    """The variables that are the same for every request of an app. `port` is the listener's.

    `secure`: the client speaks TLS. HTTPS is set then, and only then: programs take its presence for a yes.
    """
    always = [
        (b"GATEWAY_INTERFACE", b"CGI/1.1"),
        (b"SERVER_SOFTWARE", SOFTWARE),
        (b"SERVER_PORT", b"%d" % port),
        (b"REQUEST_SCHEME", b"https" if secure else b"http"),
        # php-cgi runs nothing without it, lest a browser names the script (cgi.force_redirect).
        (b"REDIRECT_STATUS", b"200"),
    ]
    if secure:
        always.append((b"HTTPS", b"on"))
    return [*always, (b"DOCUMENT_ROOT", root)] if root else always


def of_connection(host: bytes, client: tuple[str, int | None], modern: bool) -> Variables:
    """The variables that are the same for most requests of a connection (RFC 3875 4.1).

    Of a client whom another proxy speaks for, the port is not known: None.
    """
    found = [
        (b"SERVER_NAME", _without_port(host)),
        (b"SERVER_PROTOCOL", b"HTTP/1.1" if modern else b"HTTP/1.0"),
        (b"REMOTE_ADDR", client[0].encode()),
        (b"HTTP_HOST", host),
    ]
    return found if client[1] is None else [*found, (b"REMOTE_PORT", b"%d" % client[1])]


def of_request(request: RequestHead, script: Script, *, authorized: bool) -> Variables:
    """The variables of one request (RFC 3875 4.1).

    The gateway authenticates nobody, so the program has to, if anybody does: with `authorized` it sees the client's
    Authorization. FastCGI applications do, as behind nginx; CGI programs do not, as under Apache, because whatever they
    start inherits their environment (RFC 3875 4.1.18, 9.2).
    """
    target = request.target
    found = [
        (b"REQUEST_METHOD", request.method),
        (b"REQUEST_URI", target),
        (b"QUERY_STRING", target.partition(b"?")[2]),
        (b"SCRIPT_FILENAME", script.filename),
        (b"SCRIPT_NAME", script.name),
        (b"PATH_INFO", script.path_info),
    ]
    if script.root and script.path_info:
        found.append((b"PATH_TRANSLATED", script.root + script.path_info))
    if request.fields.length > 0:
        found.append((b"CONTENT_LENGTH", b"%d" % request.fields.length))
    found += _fields(request.lines, authorized).items()
    return found


def expects_continue(request: RequestHead) -> bool:
    """The client waits for 100 before it sends its body. Whoever speaks CGI cannot say that, so the gateway does."""
    return request.fields.modern and _EXPECTS.search(request.lines) is not None


def _fields(lines: bytes, authorized: bool) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for sent, value in _FIELDS_SENT.findall(lines):
        name = _variable(sent)
        if name is None and not (authorized and sent.lower() == b"authorization"):
            continue
        name = name or b"HTTP_AUTHORIZATION"
        value = value.rstrip(b" \t")
        if name not in found:
            found[name] = value
        elif name == b"CONTENT_TYPE":
            raise BadMessageError(400, "Content-Type was given twice; expected once (RFC 9110 8.3).")
        else:
            found[name] += (b"; " if name == b"HTTP_COOKIE" else b", ") + value
    return found


@lru_cache(maxsize=512)
def _variable(field: bytes) -> bytes | None:
    """The variable that carries a field; None for those that have others, or none."""
    lowered = field.lower()
    if lowered == b"content-type":
        return b"CONTENT_TYPE"
    return None if lowered in _NOT_PASSED else b"HTTP_" + field.upper().replace(b"-", b"_")


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    return name if colon and not port.endswith(b"]") else host


# -- the answer


@final
class LocalRedirect(msgspec.Struct, frozen=True):
    """The program has another path of this server answer in its place (RFC 3875 6.2.2)."""

    target: bytes
    """Path and query."""


def redirected(request: RequestHead, redirect: LocalRedirect) -> RequestHead:
    """The request that a local redirect makes of `request`: the same client's GET (or HEAD), without a body."""
    method = b"HEAD" if request.method == b"HEAD" else b"GET"
    fields = request.lines[request.lines.index(b"\n") + 1 :]
    of_body = {name.lower() for name, _ in _FIELD.findall(fields) if _BODY_FIELD.fullmatch(name)}
    lines = b"%b %b HTTP/1.1\r\n" % (method, redirect.target) + without(fields, of_body)
    return msgspec.structs.replace(with_length(request, 0), method=method, target=redirect.target, lines=lines)


class Answer(msgspec.Struct, frozen=True):
    """A program's answer, up to its body."""

    head: ResponseHead | LocalRedirect
    """The response's length is `CHUNKED` when the program does not say it."""
    rest: bytes
    """What came behind the empty line."""


def parse_answer(data: bytes, limit: int) -> Answer | None:
    """The header that `data`, a program's output, begins with; None while it is incomplete.

    `limit`: the most bytes that it may have. Raises `BadMessageError` with status 502.
    """
    match = _ANSWER.match(data)
    if match is None or match.end() > limit:
        _check_incomplete(data, limit)
        return None
    fields = match[1]
    special: dict[bytes, bytes] = {}
    for name, value in _NOTABLE.findall(fields):
        lowered = name.lower()
        if lowered in special and lowered in _ONCE:
            raise BadMessageError(502, f"It sent {shown(name)} twice; expected once (RFC 3875 6.3).")
        special[lowered] = value.rstrip(b" \t")
    return Answer(_head(fields, special), data[match.end() :])


def _head(fields: bytes, special: dict[bytes, bytes]) -> ResponseHead | LocalRedirect:
    location, status = special.get(b"location"), special.get(b"status")
    if b"transfer-encoding" in special:
        raise BadMessageError(502, "It sent Transfer-Encoding; a program's output ends where it ends.")
    if location is not None and status is None:
        if _LOCAL.fullmatch(location):
            return LocalRedirect(location)
        status = b"302"
    code, reason = _status(status)
    length = content_length(special[b"content-length"], None, 502) if b"content-length" in special else CHUNKED
    if code in (204, 304):
        length, fields = 0, without(fields, (b"content-length",))
    elif location is None and length != 0 and b"content-type" not in special:
        raise BadMessageError(502, "It sent no Content-Type; expected one before a body (RFC 3875 6.3.1).")
    if not special.keys().isdisjoint(_CUT):
        fields = without(fields, _CUT)
    lines = b"HTTP/1.1 %d %b\r\n" % (code, reason) + fields.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    small = lines.lower()
    dated, named = small.find(b"\ndate:") >= 0, small.find(b"\nx-request-id:") >= 0
    return ResponseHead(code, length, True, lines, 0, b"", dated, named)


def _status(value: bytes | None) -> tuple[int, bytes]:
    """Code and reason phrase of a Status field; 200 without one."""
    if value is None:
        return 200, b"OK"
    match = _STATUS.fullmatch(value)
    if match is None:
        raise BadMessageError(502, f"It sent Status: {shown(value)}; expected a code from 200 to 599, such as 404.")
    code = int(match[1])
    return code, match[2] or _phrase(code)


def _phrase(code: int) -> bytes:
    return HTTPStatus(code).phrase.encode() if code in HTTPStatus._value2member_map_ else b"Other"


def _check_incomplete(data: bytes, limit: int) -> None:
    """Returns if `data` may still become a header; otherwise says what is wrong with it."""
    if data.startswith(b"HTTP/1."):
        raise BadMessageError(502, "It begins with HTTP/1., as only NPH scripts may; expected a header such as Status.")
    lines = _LINES.match(data)
    wrong = data[lines.end() if lines else 0 :]
    if b"\n" in wrong and not wrong.startswith((b"\n", b"\r\n")):
        line = wrong[: wrong.index(b"\n")]
        raise BadMessageError(502, f"Its header holds {shown(line)}; expected Name: value, then an empty line.")
    if len(data) > limit:
        raise BadMessageError(502, f"Its header is longer than {limit} bytes.")
