"""Generated requests, valid or bent near the edges where parsers disagree, and what the gateway takes them for."""

import re
from itertools import pairwise

from hypothesis import assume
from hypothesis import strategies as st

from lab.core.model import Limits
from lab.wire.bodies import Body, incoming
from lab.wire.http1 import BadMessageError, RequestHead, ResponseHead, parse_request, parse_response

Request = tuple[bytes, bytes, bytes, bytes]
"""Method, target, Host, body."""

LIMITS = Limits()

BEHIND = b"x" * 6000 + b"\r\n\r\n"
"""Enough for every small length that a bent message promises; where a request could begin, it is none."""


def _spaced(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    space = st.sampled_from([b"", b" ", b" ", b" ", b"\t", b"  ", b" \t "])
    return st.tuples(space, values, space).map(b"".join)


def _cased(name: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([name, name, name.lower(), name.upper(), name.swapcase()])


def _field(name: bytes, *values: bytes) -> st.SearchStrategy[bytes]:
    return st.tuples(_cased(name), st.just(b":"), _spaced(st.sampled_from(values))).map(b"".join)


FIELDS = st.one_of(
    _field(b"X", b"1", b"", b"a, b", b"caf\xe9", b"a\tb", b":"),
    _field(b"Connection", b"keep-alive", b"x", b"close", b"a, x", b"Keep-Alive, a", b""),
    _field(b"Cookie", b"a=b", b"a=b; c=d"),
    _field(b"Accept", b"*/*"),
    _field(b"X-Forwarded-For", b"1.2.3.4"),
    _field(b"Via", b"1.1 before"),
    _field(b"Content-Length-X", b"5"),
    _field(b"X-Content-Length", b"7"),
    _field(b"Transfer_Encoding", b"chunked"),
    _field(b"Expect", b"100-continue"),
    _field(b"Trailer", b"A"),
    st.sampled_from(
        [b"Host: y", b"Content-Length: 0", b"Content-Length: 3", b"Transfer-Encoding: chunked", b" folded"]
    ),
)
METHODS = st.sampled_from([b"GET", b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE"])
TARGETS = st.sampled_from(
    [
        b"/",
        b"/?q=a",
        b"/a/b?c=d&q=x%20y",
        b"http://y/p?q=a",
        b"http://y:8080",
        b"HTTPS://[::1]:9/?q",
        b"*",
        b"//h/p",
        b"/%2e%2e/",
    ]
)
VERSIONS = st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.1", b"1.0"])
PAYLOADS = st.binary(max_size=40) | st.sampled_from([b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n", b"0\r\n\r\n"])
EXTENSIONS = st.sampled_from([b"", b"", b"", b";a", b";a=b", b' ; a="b;c"', b";", b"\t;x=\xe9"])
TRAILERS = st.sampled_from([b"", b"", b"A: b\r\n", b"Content-Length: 5\r\n", b"A: b\r\nHost: z\r\nC: d\r\n"])
SIZES = st.sampled_from([b"%x", b"%X", b"0%x", b"%04x"])


@st.composite
def _chunks(draw: st.DrawFn) -> bytes:
    pieces = [piece for piece in draw(st.lists(PAYLOADS, max_size=3)) if piece]
    lines = [b"%b%b\r\n%b\r\n" % (draw(SIZES) % len(piece), draw(EXTENSIONS), piece) for piece in pieces]
    return b"".join(lines) + b"0%b\r\n%b\r\n" % (draw(EXTENSIONS), draw(TRAILERS))


@st.composite
def _message(draw: st.DrawFn) -> bytes:
    """A request that is well formed, or nearly."""
    fields = [draw(_field(b"Host", b"x", b"x:81", b"[::1]")), *draw(st.lists(FIELDS, max_size=3))]
    kind = draw(st.sampled_from(["none", "none", "counted", "chunked"]))
    body = b""
    if kind == "counted":
        body = draw(PAYLOADS)
        fields.append(draw(_field(b"Content-Length", b"%d" % len(body), b"0%d" % len(body))))
    elif kind == "chunked":
        body = draw(_chunks())
        fields.append(draw(_field(b"Transfer-Encoding", b"chunked", b"Chunked", b",chunked")))
    if draw(st.integers(0, 3)) == 0:  # who believes it sees another end
        length = _field(b"Content-Length", b"%d" % len(body), b"0", b"3", b"+%d" % len(body), b"%d, 3" % len(body))
        coding = _field(b"Transfer-Encoding", b"chunked", b"identity", b"gzip, chunked", b"xchunked", b"chunked, x")
        fields.append(draw(length | coding))
    lines = b"".join(field + b"\r\n" for field in draw(st.permutations(fields)))
    return b"%b %b HTTP/%b\r\n%b\r\n%b" % (draw(METHODS), draw(TARGETS), draw(VERSIONS), lines, body)


BITS = st.sampled_from([bit.encode("latin-1") for bit in (*" \t\r\n\0:,;01_\x0b\xff", "\r\n", "\r\n\r\n")])


_OWN_WITH_BODY = re.compile(rb"(?is)OPTIONS (\*|https?://[^/ ]*) .*(Content-Length|Transfer-Encoding)")
"""What the gateway answers itself it answers at the head: whether anything behind it is read depends on whether its
body has come by then (point 8), so there is no one answer that would be right."""


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """One to three requests, one behind the other, bent in up to three places."""
    data = b"".join(draw(st.lists(_message(), min_size=1, max_size=3)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.just(b"") | BITS) + data[place + draw(st.integers(0, 2)) :]
    assume(not _OWN_WITH_BODY.search(data))
    return data


CUTS = st.lists(st.integers(0, 400), max_size=12)
"""Places at which a message is cut into segments."""


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at these places; those beyond its end cut nothing."""
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[begin:end] for begin, end in pairwise(places)]


ANSWER_FIELDS = st.one_of(
    _field(b"X", b"1", b"", b"a, b", b"caf\xe9", b"a\tb", b":"),
    _field(b"Connection", b"keep-alive", b"x", b"close", b"a, x", b""),
    _field(b"Date", b"Sat, 21 Nov 2026 21:00:00 GMT"),
    _field(b"Trailer", b"A"),
    _field(b"Transfer_Encoding", b"chunked"),
    _field(b"Upgrade", b"h2c"),
    st.sampled_from([b"Content-Length: 0", b"Content-Length: 3", b"Transfer-Encoding: chunked", b" folded", b"X : y"]),
)
STATUSES = st.sampled_from(
    [b"200 OK", b"200 OK", b"200", b"404 Not Found", b"206 Part", b"204 No", b"304 No", b"205 R"]
)
INTERIMS = st.sampled_from([b"", b"", b"", b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n", b"HTTP/1.1 100 C\r\n\r\n"])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """What a worker says to one request, well formed or bent in up to two places."""
    fields = draw(st.lists(ANSWER_FIELDS, max_size=3))
    body = draw(PAYLOADS)
    kind = draw(st.sampled_from(["none", "counted", "counted", "chunked"]))
    if kind == "counted":
        fields.append(draw(_field(b"Content-Length", b"%d" % len(body), b"0%d" % len(body))))
    elif kind == "chunked":
        body = draw(_chunks())
        fields.append(draw(_field(b"Transfer-Encoding", b"chunked", b"Chunked", b",chunked")))
    lines = b"".join(field + b"\r\n" for field in draw(st.permutations(fields)))
    data = b"%bHTTP/%b %b\r\n%b\r\n%b" % (draw(INTERIMS), draw(VERSIONS), draw(STATUSES), lines, body)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.just(b"") | BITS) + data[place + draw(st.integers(0, 2)) :]
    return data


class Reader:
    """Takes a client's bytes for requests as the gateway does, piece by piece."""

    def __init__(self) -> None:
        self.found: list[Request] = []
        """Those that are sent on, whole."""
        self.asked: list[tuple[bytes, bytes]] = []
        """Method and target of those that are answered: also of one whose body has not come to its end. Empty for one
        that is refused for its head."""
        self.ends: list[tuple[int, bytes]] = []
        """Behind which byte each of `found` ends, and its trailers."""
        self.whole = 0
        """Those of which everything has come, also one that is the gateway's own."""
        self.ended = False
        """Nothing is read any more."""
        self._held = b""
        self._head: RequestHead | None = None
        self._body: Body | None = None
        self._payload = b""
        self._fed = 0

    def feed(self, data: bytes) -> None:
        """More bytes."""
        self._fed += len(data)
        try:
            while data and not self.ended:
                data = self._feed_head(data) if self._body is None else self._feed_body(self._body, data)
        except BadMessageError:
            if self._body is None:
                self.asked.append((b"", b""))
            self.ended = True

    def _feed_head(self, data: bytes) -> bytes:
        self._held += data
        head = self._head = parse_request(self._held, LIMITS)
        if head is None:
            return b""
        self.asked.append((head.method, head.target))
        rest, self._held = self._held[head.end :], b""
        if head.fields.length:
            self._body = incoming(head.fields.length, 400, head.fields.dropped)
        else:
            self._complete(rest, b"")
        return rest

    def _feed_body(self, body: Body, data: bytes) -> bytes:
        self._payload += body.feed(data)
        if not body.done:
            return b""
        self._body = None
        self._complete(body.rest, body.trailers)
        return body.rest

    def _complete(self, rest: bytes, trailers: bytes) -> None:
        assert self._head is not None
        self.whole += 1
        if self._head.target != b"*":  # the gateway's own
            self.found.append((self._head.method, self._head.target, self._head.fields.host or b"", self._payload))
            self.ends.append((self._fed - len(rest), trailers))
        self._payload = b""
        self.ended = not self._head.fields.keep_alive


class Answers:
    """Takes the gateway's bytes for answers as a client does, piece by piece."""

    def __init__(self, asked: list[tuple[bytes, bytes]]) -> None:
        """`asked` are method and target of each request, and grows meanwhile."""
        self.found: list[ResponseHead] = []
        """Heads of final answers."""
        self.wrong = ""
        """Why it can make nothing of them."""
        self._asked = asked
        self._held = b""
        self._body: Body | None = None

    def feed(self, data: bytes) -> None:
        """More bytes."""
        try:
            while data and not self.wrong:
                data = self._feed_head(data) if self._body is None else self._feed_body(self._body, data)
        except BadMessageError as bad:
            self.wrong = bad.detail

    def _feed_head(self, data: bytes) -> bytes:
        self._held += data
        number = len(self.found)
        if number >= len(self._asked):
            self.wrong = f"Nothing was asked, and {self._held[:40]!r} came."
            return b""
        head = parse_response(self._held, self._asked[number][0] == b"HEAD")
        if head is None:
            return b""
        rest, self._held = self._held[head.end :], b""
        if head.status >= 200:
            self.found.append(head)
            self._body = incoming(head.length, 502) if head.length else None
        return rest

    def _feed_body(self, body: Body, data: bytes) -> bytes:
        body.feed(data)
        if not body.done:
            return b""
        self._body = None
        return body.rest


def ours(*pieces: bytes) -> list[Request]:
    """The requests that the gateway sends on of these bytes."""
    reader = Reader()
    for piece in pieces:
        reader.feed(piece)
    return reader.found
