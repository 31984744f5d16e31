"""How a worker is asked whether it is well, and what its answer is worth: bytes out, bytes in, a verdict.

Pool and proxy ask for reasons of their own, but the same things, and an answer is judged as strictly as the gateway
reads every other one: a worker of which each answer would be a 502 to the client is not well.
"""

import contextlib
from typing import Protocol

import msgspec

from lab.wire import fastcgi
from lab.wire.http1 import BadMessageError, ResponseHead, parse_response


class Question(Protocol):
    """Something to ask, and how to understand the answer."""

    @property
    def words(self) -> bytes:
        """What is sent."""
        ...

    @property
    def name(self) -> str:
        """What it is, for sentences such as `It did not answer GET /health`."""
        ...

    def is_whole(self, answer: bytes) -> bool:
        """Whether nothing has to follow. What is wrong is whole: nothing could mend it."""
        ...

    def wrong(self, answer: bytes) -> str:
        """What is wrong with it, as the end of a sentence about the worker; empty when all is well."""
        ...


class Get:
    """GET `path`, to be answered with a 2xx."""

    def __init__(self, path: str, host: str = "localhost") -> None:
        self.name = f"GET {path}"
        fields = f"Host: {host}\r\nUser-Agent: cgilab-probe\r\nConnection: close\r\n"
        self.words = f"{self.name} HTTP/1.1\r\n{fields}\r\n".encode()

    def is_whole(self, answer: bytes) -> bool:
        try:
            head = _final(answer)
        except BadMessageError:
            return True
        return head is not None and 0 <= head.length <= len(answer) - head.end

    def wrong(self, answer: bytes) -> str:
        with contextlib.suppress(BadMessageError):
            if (head := _final(answer)) is not None:
                return "" if 200 <= head.status < 300 else f"answered {self.name} with status {head.status}"
        return f"answered {self.name} with {answer[:40]!r}, which is not HTTP"


class GetValues:
    """FCGI_GET_VALUES, a management record that every FastCGI application answers (FastCGI 1.0, section 4.1)."""

    name = "FCGI_GET_VALUES"
    words = fastcgi.get_values(("FCGI_MAX_CONNS",))

    def is_whole(self, answer: bytes) -> bool:
        try:
            return fastcgi.values(answer) is not None
        except BadMessageError:
            return True

    def wrong(self, answer: bytes) -> str:
        with contextlib.suppress(BadMessageError):
            if fastcgi.values(answer) is not None:
                return ""
        return f"answered {self.name} with {answer[:40]!r}, which is not FCGI_GET_VALUES_RESULT"


def unanswered(question: Question, seconds: float) -> str:
    """The end of a sentence about a worker that has kept silent for so long."""
    return f"did not answer {question.name} within {seconds:g} s"


def _final(answer: bytes) -> ResponseHead | None:
    """The head of a response behind the interim ones, which anybody may send (RFC 9110 15.2). `end` counts from the
    beginning of `answer`. None while it is incomplete. Raises `BadMessageError`."""
    behind = 0
    while (head := parse_response(answer[behind:], to_head=False)) is not None and head.status < 200:
        behind += head.end
    return head and msgspec.structs.replace(head, end=behind + head.end)
