"""Talking with a lab that runs in another process.

Apart from `bootstrap`, so that a command which asks a running lab imports nothing of what makes one: `cgilab status`
answers in two thirds of the time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from lab import paths
from lab.engine.remote import RemoteLab


def speak(name: str, talk: Callable[[RemoteLab], Awaitable[int | None]]) -> int:
    """Run `talk` with the lab called `name`. Returns the exit code; raises `NoLabError` where none runs."""

    async def conversation() -> int:
        async with attached(name) as remote:
            return await talk(remote) or 0

    return asyncio.run(conversation())


@asynccontextmanager
async def attached(name: str, *, read_only: bool = False) -> AsyncIterator[RemoteLab]:
    """The lab called `name`, for as long as the conversation lasts. Raises `NoLabError` where none runs."""
    remote = await RemoteLab.connect(paths.control_socket(name), read_only=read_only)
    try:
        yield remote
    finally:
        await remote.close()
