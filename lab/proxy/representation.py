"""What of a file is sent: all of it, a range, or only that it has not changed (RFC 9110 13 and 14). No I/O.

One range at a time: a request for several gets the whole file, as RFC 9110 14.2 allows.
"""

import mimetypes
import re
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

from lab.proxy.problems import head
from lab.wire.http1 import RequestHead

_FIELD = re.compile(
    rb"(?i)\n(if-(?:none-)?match|if-(?:un)?modified-since|if-range|range):[ \t]*([^\r\n]*?)[ \t]*(?=\r|\Z)"
)
_TAG = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE = re.compile(rb"(?i)bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*")


@dataclass(frozen=True, slots=True)
class Representation:
    """A file as it is now."""

    name: str
    size: int
    modified_ns: int
    """Since the epoch."""

    @property
    def etag(self) -> bytes:
        """A strong validator: a file that is written again within one nanosecond has changed its size at least."""
        return b'"%x-%x"' % (self.modified_ns, self.size)

    @property
    def last_modified(self) -> bytes:
        """Whole seconds, as HTTP has them."""
        return formatdate(self._modified, usegmt=True).encode()

    @property
    def media_type(self) -> str:
        """By the name's suffix. What is compressed is called what the compression is: nobody asked to unpack it."""
        kind, encoding = mimetypes.guess_type(self.name)
        if encoding is not None:
            kind = f"application/{encoding}"
        if kind is None:
            return "application/octet-stream"
        return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind

    @property
    def _modified(self) -> int:
        return self.modified_ns // 1_000_000_000

    def answer(self, request: RequestHead) -> "Answer":
        """What a GET or HEAD is answered with."""
        asked = {field[1].lower(): field[2] for field in _FIELD.finditer(request.lines)}
        validators = b"Last-Modified: %b\r\nETag: %b\r\n" % (self.last_modified, self.etag)
        if self._is_another(asked):
            return Answer(head(412, self.media_type, 0, validators), 0, 0)
        if self._is_known(asked):
            return Answer(b"HTTP/1.1 304 Not Modified\r\n" + validators, 0, 0)
        fields = validators + b"Accept-Ranges: bytes\r\n"
        wanted = self._range(asked) if request.method == b"GET" else None
        if wanted is None:
            return Answer(head(200, self.media_type, self.size, fields), 0, self.size)
        if not wanted:
            return Answer(head(416, self.media_type, 0, b"Content-Range: bytes */%d\r\n" % self.size), 0, 0)
        place = b"Content-Range: bytes %d-%d/%d\r\n" % (wanted.start, wanted.stop - 1, self.size)
        return Answer(head(206, self.media_type, len(wanted), place + fields), wanted.start, len(wanted))

    def _is_another(self, asked: dict[bytes, bytes]) -> bool:
        """Whether the client speaks of an earlier version. A weak tag says nothing of that (RFC 9110 13.1.1)."""
        tags = asked.get(b"if-match")
        if tags is not None:
            return tags != b"*" and (b"", self.etag) not in _TAG.findall(tags)
        since = _seconds(asked.get(b"if-unmodified-since"))
        return since is not None and self._modified > since

    def _is_known(self, asked: dict[bytes, bytes]) -> bool:
        """Whether the client has it already. A tag is believed before a date (RFC 9110 13.2.2)."""
        tags = asked.get(b"if-none-match")
        if tags is not None:
            return tags == b"*" or any(tag == self.etag for _, tag in _TAG.findall(tags))
        since = _seconds(asked.get(b"if-modified-since"))
        return since is not None and self._modified <= since

    def _range(self, asked: dict[bytes, bytes]) -> range | None:
        """The bytes that were asked for; empty if there are none there; None for the whole file."""
        match = _RANGE.fullmatch(asked.get(b"range", b""))
        if match is None or asked.get(b"if-range", self.etag) not in (self.etag, self.last_modified):
            return None
        first, last = match.groups()
        if first:
            if last and int(last) < int(first):
                return None
            return range(int(first), min(int(last) + 1, self.size) if last else self.size)
        return range(max(self.size - int(last), 0), self.size) if last else None


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer, without its empty line, and where in the file its body is."""

    head: bytes
    start: int
    length: int
    """Bytes; a HEAD is answered with the same head and none of them."""


def _seconds(date: bytes | None) -> float | None:
    """Seconds since the epoch of an HTTP date; None for what is none."""
    try:
        return None if date is None else parsedate_to_datetime(date.decode()).timestamp()
    except (ValueError, OverflowError):
        return None
