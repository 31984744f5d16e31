"""A CGI program that answers one request: a process, with a pipe to it and one from it, as a connection to a worker.

It lives by `CgiLimits`: it is killed when its time is up, when it writes more than it may, or when the client leaves.
Its answer ends when it closes its output, nearly always by exiting; so the exit status counts too, but it is waited for
only a moment: a program that closes its output and goes on working must not keep the client waiting.
"""

import asyncio
import os
from typing import TYPE_CHECKING, Final

from lab.core.model import CgiLimits
from lab.core.program import CgiProgram
from lab.proxy import problems
from lab.proxy.backends.python_builtin.connection import WorkerConnection
from lab.proxy.backends.python_builtin.dialects import meta_variables
from lab.proxy.backends.python_builtin.dialects.cgi import CgiDialect, how_it_ended
from lab.wire import cgi

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.endpoint import EndpointState
    from lab.proxy.backends.python_builtin.exchange import Exchange
    from lab.proxy.backends.python_builtin.gateway import Gateway

_LAST_WORD: Final = 0.1
"""Seconds between the end of a program's output and its exit, if the exit is to count."""

_PIECE: Final = 64 * 1024
"""Bytes that are read at once: what a pipe holds."""

_UNSENT_LIMIT: Final = 64 * 1024
"""Bytes that wait for a program to read them; beyond, nothing more is taken from the client."""


class CgiConnection(WorkerConnection):
    """The process, as an exchange sees it. Its deadline is that of its last word, or of `CgiLimits.time`."""

    def __init__(
        self, endpoint: "EndpointState", gateway: "Gateway", program: CgiProgram, limits: CgiLimits, length: int
    ) -> None:
        """`length`: bytes of the request's body, behind which the program finds the end of its input."""
        self._speech = CgiDialect(limits)
        super().__init__(endpoint, self._speech)
        self.pid = program.pid
        self._wheel, self._now = gateway.wheel, gateway.now
        self._program = program
        self._limit = limits.time
        self._overdue = gateway.now() + limits.time
        self._silent = False
        """It has closed its output."""
        self.connection_made(Pipes(self, program, length))
        self._wheel.arm(self, self._overdue)
        program.on_end(self._program_ended)

    def eof_received(self) -> None:
        self._silent = True
        if self._speech.exit_status is not None:
            self._over()
        else:
            self._wheel.arm(self, self._now() + _LAST_WORD)

    def discard(self) -> None:
        """Close the pipes, and kill it if nobody wants what it still has to say."""
        self.exchange = None
        if self._speech.exit_status is not None:
            self._wheel.forget(self)
        self.transport.abort()
        if not self._speech.ended:
            self._program.kill()

    def expired(self) -> None:
        if self.exchange is not None and self._silent:
            self._wheel.arm(self, self._overdue)
            self._over()
        elif self.exchange is not None:
            problem = problems.cgi_overdue(self.endpoint.endpoint.app, self._limit)
            self.endpoint.tell(f"It was killed after {self._limit:g} s, before it was done.", self.pid)
            self.exchange.fail_at_worker(problem)
        else:
            self._program.kill()

    def _over(self) -> None:
        """Nothing more will come."""
        self._speech.ended = True
        if self.exchange is not None:
            self.exchange.received(b"")

    def _program_ended(self, status: int) -> None:
        answered, self._speech.exit_status = self._speech.ended, status
        if self._silent and not answered:
            self._over()
        elif answered and status:
            self.endpoint.tell(f"It {how_it_ended(status)} some time after its answer.", self.pid)
        if self.exchange is None:
            self._wheel.forget(self)


class Pipes(asyncio.Transport):
    """A program's standard input and output, as one transport, on the loop that makes it."""

    def __init__(self, protocol: CgiConnection, program: CgiProgram, length: int) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._stdin, self._stdout = program.stdin, program.stdout
        self._left = length
        self._unsent = b""
        self._paused = True
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        if not length:
            self._close_stdin()
        self.resume_reading()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hand the program a piece of its body. One that has closed its input gets no more, which is its right."""
        if self._stdin < 0:
            return
        self._left -= len(data)
        if self._unsent:
            self._unsent += data
        else:
            self._unsent = bytes(data)
            self._send()
            if self._unsent:
                self._loop.add_writer(self._stdin, self._send_on)
        if len(self._unsent) > _UNSENT_LIMIT and not self._protocol.blocked:
            self._protocol.pause_writing()

    def is_closing(self) -> bool:
        return self._stdin < 0 and self._stdout < 0

    def pause_reading(self) -> None:
        if not self._paused and self._stdout >= 0:
            self._loop.remove_reader(self._stdout)
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused and self._stdout >= 0:
            self._loop.add_reader(self._stdout, self._receive)
        self._paused = False

    def abort(self) -> None:
        self._close_stdin()
        self._close_stdout()

    def _send_on(self) -> None:
        self._send()
        if not self._unsent and self._stdin >= 0:
            self._loop.remove_writer(self._stdin)
        if len(self._unsent) <= _UNSENT_LIMIT and self._protocol.blocked:
            self._protocol.resume_writing()

    def _send(self) -> None:
        try:
            sent = os.write(self._stdin, self._unsent) if self._unsent else 0
        except BlockingIOError:
            return
        except OSError:
            self._close_stdin()
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent and self._left <= 0:
            self._close_stdin()

    def _receive(self) -> None:
        try:
            data = os.read(self._stdout, _PIECE)
        except BlockingIOError:
            return
        if data:
            self._protocol.data_received(data)
        else:
            self._close_stdout()
            self._protocol.eof_received()

    def _close_stdin(self) -> None:
        self._unsent = b""
        if self._stdin >= 0:
            self._loop.remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = -1

    def _close_stdout(self) -> None:
        if self._stdout >= 0:
            self._loop.remove_reader(self._stdout)
            os.close(self._stdout)
            self._stdout = -1


async def start(endpoint: "EndpointState", exchange: "Exchange", gateway: "Gateway") -> CgiConnection:
    """Start a program for one request. Raises `LabError`, and `BadMessageError` for what it cannot be told."""
    port, root, secure = meta_variables.server(exchange)
    known = cgi.constants(port, root, secure=secure) + cgi.of_connection(*meta_variables.connection(exchange))
    environment = _environment(known + meta_variables.of_request(exchange, authorized=False))
    program = await gateway.start_cgi(endpoint.endpoint.app, environment)
    return CgiConnection(endpoint, gateway, program, endpoint.upstream.spec.cgi, exchange.request.fields.length)


def _environment(variables: cgi.Variables) -> dict[str, str]:
    """A CGI program's whole environment: what the lab's own has besides is none of its business."""
    found = {os.fsdecode(name): os.fsdecode(value) for name, value in variables}
    return found | {"PATH": os.environ.get("PATH", os.defpath)}
