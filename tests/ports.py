"""Ports for programs that a test starts, and for nobody else.

A port that was free a moment ago may be anybody's when a program binds it: with several test runs on a busy machine it
is sometimes a worker of another run, which even answers. So a test keeps its ports bound, without listening: the kernel
gives them to nobody who asks for any port, nor to a connection that goes out, and who connects is refused. A program
that sets SO_REUSEADDR, as servers do, can listen there all the same (socket(7)).
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

Reserve = Callable[[], int]
"""Gives another port of 127.0.0.1 with each call."""


@contextmanager
def reserving() -> Iterator[Reserve]:
    """Ports that are kept for the time being."""
    with ExitStack() as kept:

        def reserve() -> int:
            holder = kept.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", 0))
            port: int = holder.getsockname()[1]
            return port

        yield reserve
