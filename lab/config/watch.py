"""Tells when it is time to look at files that people edit.

The kernel says when something in their folders changes (inotify, through watchfiles), whatever an editor does: it may
write in place, write beside and rename, remove and write again. A burst is told once, when it has been quiet for a
moment. What the kernel cannot see (a file on a network drive) a patrol finds: so a look is due every few seconds
anyhow, and that is also all there is on a machine that has no watches left.
"""

import asyncio
import importlib
import stat
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path

QUIET_MS = 80
"""A burst of changes is over when nothing happened for so long."""
BURST_MS = 1000
"""A burst that goes on is told after so long."""
PATROL_MS = 2000
"""Between two looks when nothing is heard."""
HEAD_START_S = 1.0
"""The kernel is asked so long after the first start: importing watchfiles takes 40 ms of the interpreter's lock, which
are better spent on the first workers and the first picture. What is edited meanwhile the first look finds."""
POLL_S = 0.5
"""Between two looks without any help of the kernel."""


async def looks(
    files: frozenset[Path], stop: asyncio.Event, complain: Callable[[str], None]
) -> AsyncGenerator[None, None]:
    """Yield whenever one of `files` may have changed, been removed or come back, until `stop` is set.

    `complain` is told once why the kernel does not help; then looks come by the clock. Nothing blocks the loop.
    """
    if "watchfiles" not in sys.modules:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), HEAD_START_S)
        yield
    watchfiles = await asyncio.to_thread(importlib.import_module, "watchfiles")
    try:
        while not stop.is_set():
            folders = await asyncio.to_thread(_folders, files)
            paths = await asyncio.to_thread(_paths, files)
            watching = watchfiles.awatch(
                *folders,
                watch_filter=lambda _, path, paths=paths: Path(path) in paths,
                step=QUIET_MS,
                debounce=BURST_MS,
                rust_timeout=PATROL_MS,
                yield_on_timeout=True,
                stop_event=stop,
                recursive=False,
            )
            async with aclosing(watching):
                async for _ in watching:
                    yield
                    if await asyncio.to_thread(_folders, files) != folders:
                        break  # one was moved away, or has come: watch those that are there now
    except (OSError, RuntimeError) as error:
        complain(str(error))
    while not stop.is_set():
        await asyncio.sleep(POLL_S)
        yield


def _paths(files: frozenset[Path]) -> frozenset[Path]:
    """The files, what they lead to where they are links, and their folders: these may come and go too."""
    named = files | {file.resolve() for file in files}
    return named | {path.parent for path in named}


def _folders(files: frozenset[Path]) -> Mapping[Path, int]:
    """The folders that hold them, or what there is of the way to these, each with its inode."""
    named = files | {file.resolve() for file in files}
    return dict(_nearest(path.parent) for path in named)


def _nearest(folder: Path) -> tuple[Path, int]:
    for above in (folder, *folder.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            found = above.stat()
            if stat.S_ISDIR(found.st_mode):
                return above, found.st_ino
    raise FileNotFoundError(f"{folder} has no folder above it")
