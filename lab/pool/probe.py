"""One question to a worker, on a connection of its own: without a task, for hundreds of workers are asked regularly.

No worker is to die of having been asked how it is: the answer is read to its end, and a question once asked is not
taken back while its socket lives, but only waited for again. A simple program that writes to a connection of which
the other end is closed gets SIGPIPE.
"""

import asyncio
import contextlib
import errno
import os
import re
import socket
from collections.abc import Callable
from typing import Protocol

from lab.wire import fastcgi
from lab.wire.http1 import BadMessageError

_MOST = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)


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

    def is_whole(self, answer: bytearray) -> bool:
        """Whether nothing has to follow."""
        ...

    def wrong(self, answer: bytes) -> str:
        """What is wrong with it, as the end of a sentence about the worker; empty when all is well."""
        ...


class Get:
    """GET `path`, to be answered with a 2xx."""

    def __init__(self, path: str, host: str = "localhost") -> None:
        self.name = f"GET {path}"
        self.words = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: cgilab-probe\r\nConnection: close\r\n\r\n"
        ).encode()

    def is_whole(self, answer: bytearray) -> bool:
        end = answer.find(b"\r\n\r\n")
        length = _LENGTH.search(answer, 0, end + 2) if end >= 0 else None
        return length is not None and len(answer) >= end + 4 + int(length[1])

    def wrong(self, answer: bytes) -> str:
        status = _STATUS.match(answer)
        if status is None:
            return f"answered {self.name} with {answer[:40]!r}, which is not HTTP"
        return "" if status[1].startswith(b"2") else f"answered {self.name} with status {status[1].decode()}"


class GetValues:
    """FCGI_GET_VALUES, a management record that every FastCGI application answers (FastCGI 1.0, section 4.1)."""

    name = "FCGI_GET_VALUES"
    words = fastcgi.get_values(("FCGI_MAX_CONNS",))

    def is_whole(self, answer: bytearray) -> bool:
        try:
            return fastcgi.values(bytes(answer)) is not None
        except BadMessageError:
            return True

    def wrong(self, answer: bytes) -> str:
        with contextlib.suppress(BadMessageError):
            if fastcgi.values(answer) is not None:
                return ""
        return f"answered {self.name} with {answer[:40]!r}, which is not FCGI_GET_VALUES_RESULT"


class Probe:
    """A connection, made at once, and one question on it."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self._socket.setblocking(False)
        self._refused = self._socket.connect_ex(address)
        self._question: Question
        self._unsent = b""
        self._writing = False
        """It waits for room to send the rest."""
        self._answer = bytearray()
        self._heard: Callable[[str], None] | None = None
        self.over = False
        """It was answered, or hung up."""

    @property
    def port(self) -> int:
        """The port of this end, if it is TCP."""
        port: int = self._socket.getsockname()[1]
        return port

    def ask(self, question: Question) -> None:
        """Send it. Whoever wants to know the answer says so by `hear`."""
        self._question, self._unsent = question, question.words
        if self._refused in (0, errno.EINPROGRESS):
            self._send()
        else:
            self._loop.call_soon(self._failed, OSError(self._refused, os.strerror(self._refused)))

    def hear(self, heard: Callable[[str], None] | None) -> None:
        """Call `heard` once, later, with an empty text when the answer is right, else with the end of a sentence:
        `answered GET /health with status 500`. None: do not call anybody."""
        self._heard = heard

    def look(self) -> None:
        """Read what has come by now. Who runs out of patience does so first: a loop calls its timers before it looks at
        its sockets, so that a late one would blame the worker."""
        if not self.over and not self._unsent:
            self._receive()

    async def answer(self, patience: float) -> str | None:
        """Wait for the answer for so many seconds. None when there is none yet: it can be waited for again."""
        answers: list[str] = []
        heard = asyncio.Event()  # no future: the answer may come in the turn of the loop in which patience ends

        def hear(wrong: str) -> None:
            answers.append(wrong)
            heard.set()

        self.hear(hear)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):  # wait_for of Python 3.11 can lose a cancellation
                await heard.wait()
        self.hear(None)
        return answers[0] if answers else None

    def hang_up(self) -> None:
        """Close the connection, if that was not done; nothing is heard afterwards."""
        self.over, self._heard = True, None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            if self._writing:
                self._loop.remove_writer(self._socket)
            self._socket.close()

    # -- inside

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:  # not connected yet
            pass
        except OSError as error:
            self._loop.call_soon(self._failed, error)
            return
        if self._unsent:
            self._writing = True
            self._loop.add_writer(self._socket, self._send)
            return
        if self._writing:  # as a rule the first try sends it all: it is short, and the kernel connects at once
            self._writing = False
            self._loop.remove_writer(self._socket)
        self._loop.add_reader(self._socket, self._receive)

    def _receive(self) -> None:
        try:
            chunk = self._socket.recv(_MOST)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error)
            return
        self._answer += chunk
        if not self._answer:
            self._tell(f"hung up instead of answering {self._question.name}")
        elif not chunk or len(self._answer) >= _MOST or self._question.is_whole(self._answer):
            self._tell(self._question.wrong(bytes(self._answer)))

    def _failed(self, error: OSError) -> None:
        self._tell(f"did not answer {self._question.name}: {error.strerror}")

    def _tell(self, wrong: str) -> None:
        heard = self._heard
        self.hang_up()
        if heard is not None:
            heard(wrong)
