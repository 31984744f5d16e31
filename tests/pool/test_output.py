"""Output of workers: bounded, harmless to the terminal, and complete in the log."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.pool import output
from lab.pool.output import Capture, SlotOutput


@pytest.fixture
def disk():
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def test_what_is_left_in_the_pipe_is_read_at_the_end(tmp_path, disk):
    slot = SlotOutput(tmp_path / "logs" / "app-0.log", disk)
    capture = Capture(slot)
    os.write(capture.fd, b"one\ntwo\nthree\nfour, unfinished")
    capture.release()
    assert capture.finish() == "two\nthree\nfour, unfinished"
    assert slot.lines() == ("one", "two", "three", "four, unfinished")
    disk.shutdown()
    assert (tmp_path / "logs" / "app-0.log").read_bytes() == b"one\ntwo\nthree\nfour, unfinished"


async def test_a_flood_without_a_line_end_takes_bounded_memory(tmp_path, disk):
    slot = SlotOutput(tmp_path / "app-0.log", disk)
    capture = Capture(slot)
    writing = asyncio.to_thread(_write_and_close, capture.fd, b"x" * 1_000_000)
    await writing
    capture.finish()
    disk.shutdown()
    assert len(slot.lines()) == 1
    assert len(slot.lines()[0]) <= output.LONGEST_LINE + len(" ...")
    assert (tmp_path / "app-0.log").stat().st_size == 1_000_000


async def test_nothing_at_hand_can_move_the_cursor_of_a_terminal(tmp_path, disk):
    slot = SlotOutput(tmp_path / "app-0.log", disk)
    capture = Capture(slot)
    os.write(capture.fd, b"\x1b[2J\x07bell \xc3\xa9 \xff\x00\r\n")
    capture.release()
    capture.finish()
    assert slot.lines() == ("\\x1b[2J\\x07bell é \\xff\\x00",)


async def test_a_full_log_is_put_aside(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(output, "LARGEST_LOG", 10)
    slot = SlotOutput(tmp_path / "app-0.log", disk)
    for chunk in (b"twelve bytes", b"more"):
        slot.write(chunk).result()
    assert (tmp_path / "app-0.log.1").read_bytes() == b"twelve bytes"
    assert (tmp_path / "app-0.log").read_bytes() == b"more"


def _write_and_close(fd: int, text: bytes) -> None:
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(text)
