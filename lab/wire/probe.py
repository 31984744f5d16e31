"""One question to a worker, on a connection of its own: without a task, for hundreds of workers are asked regularly.

No worker is to die of having been asked how it is: the answer is read to its end, and a question once asked is not
taken back while its socket lives, but only waited for again. A simple program that writes to a connection of which
the other end is closed gets SIGPIPE. And none is blamed for what this loop was late for: an answer that is there when
patience ends counts.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable

from lab.wire.question import Question

_MOST = 64 * 1024
"""Bytes of an answer that are read."""


class Probe:
    """A connection, made at once, and one question on it."""

    def __init__(self, address: str | tuple[str, int]) -> None:
        """Connect to a path, or to an IPv4 address and a port. Raises `OSError` when this process has no descriptor
        left, which says nothing about whoever would be asked. A refusal is heard as the answer."""
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self._socket.setblocking(False)
        self._refused = self._socket.connect_ex(address)
        self._question: Question
        self._unsent = b""
        self._writing = False
        """It waits for room to send the rest."""
        self._answer = b""
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
        """Read all that has come by now. Who runs out of patience does so first: uvloop calls its timers before it
        looks at its sockets, so that a late one would blame the worker. And it tells once of a connection that was
        reset: what is not read then is never told of again."""
        while not self.over and not self._unsent and self._receive():
            pass

    async def answer(self, patience: float) -> str | None:
        """Wait for the answer for so many seconds, and look once more; what was wrong with it. None when there is none
        yet: it can be waited for again."""
        answers: list[str] = []
        heard = asyncio.Event()  # no future: the answer may come in the turn of the loop in which patience ends

        def hear(wrong: str) -> None:
            answers.append(wrong)
            heard.set()

        self.hear(hear)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):  # wait_for of Python 3.11 can lose a cancellation
                await heard.wait()
        self.look()
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
        except (BrokenPipeError, ConnectionResetError):  # it hung up; what it said before may be there
            self._unsent = b""
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
        self._loop.add_reader(self._socket, self.look)

    def _receive(self) -> bool:
        """Whether anything came, be it the end."""
        try:
            chunk = self._socket.recv(_MOST)
        except BlockingIOError:
            return False
        except OSError:  # a reset: what came before it counts
            chunk = b""
        self._answer += chunk
        if not self._answer:
            self._tell(f"hung up instead of answering {self._question.name}")
        elif not chunk or len(self._answer) >= _MOST or self._question.is_whole(self._answer):
            self._tell(self._question.wrong(self._answer))
        return True

    def _failed(self, error: OSError) -> None:
        self._tell(f"did not accept a connection for {self._question.name} ({error.strerror})")

    def _tell(self, wrong: str) -> None:
        heard = self._heard
        self.hang_up()
        if heard is not None:
            heard(wrong)
