"""Files as editors treat them, and whether somebody looks in time."""

import asyncio
import gc
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from lab.config import watch


class Watched:
    """Counts the looks at some files."""

    def __init__(self) -> None:
        self.looks = 0
        self.complaints: list[str] = []
        self._looked = asyncio.Event()

    async def run(self, files: frozenset[Path], stop: asyncio.Event) -> None:
        async with aclosing(watch.looks(files, stop, self.complaints.append)) as looks:
            async for _ in looks:
                self.looks += 1
                self._looked.set()

    async def next(self) -> None:
        """Wait for a look from now on."""
        self._looked.clear()
        await asyncio.wait_for(self._looked.wait(), 20)


@asynccontextmanager
async def watching(*files: Path) -> AsyncIterator[Watched]:
    watched, stop = Watched(), asyncio.Event()
    task = asyncio.create_task(watched.run(frozenset(files), stop))
    try:
        await until_told(watched, files[0])
        yield watched
        stop.set()
        await asyncio.wait_for(task, 30)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_told(watched: Watched, file: Path) -> None:
    """The kernel is asked in another thread: touch the file until a look shows that it was."""
    while not watched.looks:
        file.touch()
        with suppress(TimeoutError):
            await asyncio.wait_for(watched.next(), 0.3)
    with suppress(TimeoutError):  # what the touches before it bring
        while True:
            await asyncio.wait_for(watched.next(), 0.5)


def in_place(file: Path) -> None:
    file.write_text("new")


def by_renaming(file: Path) -> None:
    beside = file.with_suffix(".tmp")
    beside.write_text("new")
    beside.rename(file)


def by_moving_away(file: Path) -> None:
    file.rename(file.with_suffix(".old"))


def by_removing(file: Path) -> None:
    file.unlink()


def by_moving_the_folder(file: Path) -> None:
    file.parent.rename(file.parent.with_name("away"))


@pytest.fixture(autouse=True)
def no_patrol(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that is due anyhow would prove nothing."""
    monkeypatch.setattr(watch, "PATROL_MS", 60_000)


@pytest.mark.parametrize("edit", [in_place, by_renaming, by_moving_away, by_removing, by_moving_the_folder])
async def test_a_file_is_looked_at_after_every_kind_of_edit(tmp_path: Path, edit: Callable[[Path], None]) -> None:
    file = tmp_path / "folder" / "program.py"
    file.parent.mkdir()
    file.write_text("old")
    async with watching(file) as watched:
        edit(file)
        await watched.next()


async def test_a_file_that_was_removed_is_looked_at_when_it_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text("old")
    async with watching(file) as watched:
        file.unlink()
        await watched.next()
        file.write_text("new")
        await watched.next()


async def test_a_folder_that_was_moved_away_is_watched_where_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "folder" / "program.py"
    file.parent.mkdir()
    file.write_text("old")
    async with watching(file) as watched:
        monkeypatch.setattr(watch, "PATROL_MS", 200)  # it may come back while nobody listens yet
        by_moving_the_folder(file)
        await watched.next()
        file.parent.mkdir()
        await watched.next()
        file.write_text("new")
        await watched.next()


async def test_what_a_link_leads_to_is_watched(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "program.py", tmp_path / "link" / "program.py"
    for file in (real, link):
        file.parent.mkdir()
    real.write_text("old")
    link.symlink_to(real)
    async with watching(link) as watched:
        real.write_text("new")
        await watched.next()


async def test_neighbours_do_not_count_and_a_burst_is_one_look(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text("old")
    async with watching(file) as watched:
        looks = watched.looks
        for number in range(20):
            (tmp_path / "database").write_text(str(number))
            await asyncio.sleep(0.01)
        await asyncio.sleep(3 * watch.QUIET_MS / 1000)
        assert watched.looks == looks
        for number in range(5):
            file.write_text(str(number))
        await watched.next()
        assert watched.looks == looks + 1


@contextmanager
def nearly_no_descriptors() -> Iterator[None]:
    """One is left: enough to read a file, too few for inotify."""
    gc.collect()  # what earlier tests have dropped would free some in the midst of it
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    taken = []
    with suppress(OSError):
        while True:
            taken.append(os.dup(0))
    os.close(taken.pop())
    try:
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_the_kernels_help_files_are_looked_at_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor is left for inotify, as no watch would be on a machine that has used its own up."""
    monkeypatch.setattr(watch, "POLL_S", 0.02)
    file = tmp_path / "program.py"
    file.write_text("old")
    async with watching(file):
        pass  # what is imported and started once needs descriptors too
    watched, stop = Watched(), asyncio.Event()
    with nearly_no_descriptors():
        task = asyncio.create_task(watched.run(frozenset({file}), stop))
        for _ in range(3):
            await watched.next()
    assert len(watched.complaints) == 1
    stop.set()
    await asyncio.wait_for(task, 30)
