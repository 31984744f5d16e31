"""Talking with a lab that runs in another process.

Apart from `bootstrap`, so that a command which asks a running lab imports nothing of what makes one: `cgilab status`
answers in two thirds of the time.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from lab import paths
from lab.core.errors import NoLabError
from lab.engine.remote import RemoteLab

_USUAL = "lab"
_PATIENCE = 1.0


def speak(name: str | None, talk: Callable[[RemoteLab], Awaitable[int | None]]) -> int:
    """Run `talk` with the lab called `name` (see `attached`). Returns the exit code."""

    async def conversation() -> int:
        async with attached(name) as remote:
            return await talk(remote) or 0

    return asyncio.run(conversation())


@asynccontextmanager
async def attached(name: str | None, *, read_only: bool = False) -> AsyncIterator[RemoteLab]:
    """The lab called `name`, for as long as the conversation lasts. Raises `NoLabError` where none runs.

    None means the lab called `lab`; where there is no such lab, the only one that runs, whatever it is called.
    """
    remote = await _reach(name, read_only)
    try:
        yield remote
    finally:
        await remote.close()


async def _reach(name: str | None, read_only: bool) -> RemoteLab:
    try:
        return await RemoteLab.connect(paths.control_socket(name or _USUAL), read_only=read_only)
    except NoLabError:
        others = [control for control in paths.control_sockets() if _answers(control)]
        if not others:
            raise
        if name is None and len(others) == 1:
            return await RemoteLab.connect(others[0], read_only=read_only)
        there = " and ".join(control.stem for control in others)
        found = f"No lab called {name or _USUAL!r} is running, but there is {there}."
        raise NoLabError(found, f"Say which one you mean: --name {others[0].stem}") from None


def _answers(control: Path) -> bool:
    """Whether somebody listens there: a lab that was killed leaves its socket behind."""
    with socket.socket(socket.AF_UNIX) as asking, suppress(OSError):
        asking.settimeout(_PATIENCE)
        asking.connect(str(control))
        return True
    return False
