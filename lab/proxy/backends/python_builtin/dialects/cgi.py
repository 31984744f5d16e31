"""CGI: the request is a new process's environment and standard input, its standard output the answer (RFC 3875)."""

import signal
from typing import TYPE_CHECKING, Final

from lab.core.model import CgiLimits
from lab.proxy.backends.python_builtin.dialects import NO_REMARKS
from lab.proxy.backends.python_builtin.dialects.output import Output, ProgramDialect
from lab.wire.bodies import Body
from lab.wire.http1 import BadMessageError

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.exchange import Exchange


class CgiDialect(ProgramDialect):
    """For one process, which answers one request."""

    parting: Final = b""
    spent: Final = True

    def __init__(self, limits: CgiLimits) -> None:
        super().__init__()
        self._limits = limits
        self.begun = False
        self.ended = False
        """It has closed its output, and had a moment to say how it ended."""
        self.exit_status: int | None = None
        """Negative for a signal; None while it is not known."""

    def request(self, exchange: "Exchange") -> bytes:
        self.output = Output(exchange.request.method == b"HEAD", self._limits.header, self._limits.output)
        return b"" if exchange.upload is None else exchange.upload.held

    def upload(self, payload: bytes, body: Body) -> bytes:
        return payload

    def take(self, data: bytes) -> tuple[bytes, bool]:
        self.begun = self.begun or bool(data)
        if self.ended and self.exit_status and (self.exit_status < 0 or not self.begun) and self.output.endless:
            written = "in the middle of its answer" if self.begun else "before it answered"
            raise BadMessageError(502, f"It {how_it_ended(self.exit_status)} {written}.")
        return data, self.ended

    def remarks(self) -> tuple[str, ...]:
        found = []
        if self.exit_status:
            found.append(f"It {how_it_ended(self.exit_status)} after its answer.")
        if surplus := self.output.surplus:
            found.append(f"It wrote {surplus} bytes more than its Content-Length; they were cut off.")
        return tuple(found) if found else NO_REMARKS


def how_it_ended(status: int) -> str:
    """`exited with code 3`, `was ended by SIGSEGV`: `status` as `os.waitstatus_to_exitcode` has it."""
    if status >= 0:
        return f"exited with code {status}"
    known = {int(one): one.name for one in signal.Signals}
    return f"was ended by {known.get(-status, f'signal {-status}')}"
