"""What is spoken to workers: HTTP, FastCGI, CGI. A dialect turns requests into bytes and bytes into answers.

It does no I/O and knows no phase: `Exchange` is the one state machine for all of them. A connection has a dialect of
its own, which serves one request after the other.
"""

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from lab.wire.bodies import Body
from lab.wire.cgi import LocalRedirect
from lab.wire.http1 import ResponseHead

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.exchange import Exchange


Answer: TypeAlias = tuple[ResponseHead, bytes, Body | None]
"""An answer whose head is complete: the head; what there is of its body, or of an interim response what follows it; and
who takes the bytes from here on, None when the answer has arrived to its end. A tuple, for there is one for each
request: it is made and taken apart in a quarter of a struct's time."""


class Dialect(Protocol):
    """One connection's way to speak."""

    @property
    def continues(self) -> bool:
        """The worker itself answers `Expect: 100-continue`; else the gateway does."""
        ...

    @property
    def begun(self) -> bool:
        """A byte of the answer has arrived."""
        ...

    @property
    def redirect(self) -> LocalRedirect | None:
        """The program has ended, and has another path answer in its place."""
        ...

    @property
    def parting(self) -> bytes:
        """What the worker is told when nobody waits for its answer any more."""
        ...

    def request(self, exchange: "Exchange") -> bytes:
        """The bytes of a new request: its head, and what there is of its body.

        Raises `BadMessageError` for a request that cannot be put so; nothing was begun then.
        """
        ...

    def upload(self, payload: bytes, body: Body) -> bytes:
        """More of its body. `body` says whether that was all."""
        ...

    def answer(self, data: bytes) -> Answer | None:
        """The answer, when `data` and what came before it make up its head. Raises `BadMessageError`."""
        ...

    def remarks(self) -> tuple[str, ...]:
        """What a person should know of the answer that has just ended, in sentences about the worker. Given once."""
        ...


NO_REMARKS: Final[tuple[str, ...]] = ()
