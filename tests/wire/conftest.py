"""The loops on which a probe waits."""

import asyncio
from collections.abc import Callable

import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both: the lab's own calls its timers before it looks at its sockets, asyncio's afterwards."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
