"""Point 28, the access log: a line for each request, whoever sent it and however it ended; no line is forged."""

import asyncio
import json
import os
import re
import resource
import stat

import msgspec
import pytest

from lab.core.events import EventKind
from lab.core.model import AccessLogForm
from lab.proxy import access_log
from lab.proxy.access_log import AccessLog, Entry

COMBINED = re.compile(
    r'(?P<client>\S+) - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "(?P<asked>(?:[^"\\]|\\.)*)" (?P<status>\d{3})'
    r' (?P<sent>\d+|-) "(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)"'
)


async def logging(world, form, file, **more):
    spec = world.spec.settings
    changed = msgspec.structs.replace(spec, access_log=form, access_log_file=str(file), **more)
    world.spec = msgspec.structs.replace(world.spec, settings=changed)
    await world.proxy.apply(world.spec)


async def written(file, lines):
    """The lines of the log, as soon as there are so many."""
    async with asyncio.timeout(30):
        while not file.exists() or len(file.read_text().splitlines()) < lines:
            await asyncio.sleep(0.02)
    return file.read_text().splitlines()


async def test_28_the_access_log_has_a_line_for_each_request_however_it_ended(world, tmp_path):
    file = tmp_path / "logs" / "access.log"
    await world.start()
    await world.worker()
    await logging(world, AccessLogForm.COMBINED, file)
    client = await world.client()
    fields = b"Host: x\r\nReferer: http://there/\r\nUser-Agent: test/1\r\n"
    await client.send(b"GET /a?b HTTP/1.1\r\n" + fields + b"\r\n")
    await client.response()
    await client.send(b"BAD\r\n\r\n")
    await client.response()
    first, second = await written(file, 2)
    found = COMBINED.fullmatch(first)
    assert found is not None
    assert found.groupdict() == {
        "client": "127.0.0.1",
        "asked": "GET /a?b HTTP/1.1",
        "status": "200",
        "sent": "2",
        "referer": "http://there/",
        "agent": "test/1",
    }
    assert COMBINED.fullmatch(second)["status"] == "400"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_28_the_json_access_log_tells_who_answered_and_where_the_time_went(world, tmp_path):
    file = tmp_path / "access.log"
    await world.start()
    await world.worker()
    await logging(world, AccessLogForm.JSON, file, trace_sample=1)
    assert await world.get("/x") == 200
    line = json.loads((await written(file, 1))[0])
    (trace,) = world.proxy.traces()
    assert line["id"] == trace.id
    assert (line["app"], line["worker"], line["status"], line["outcome"]) == ("app", "app/0", 200, "answered")
    assert line["seconds"] >= line["first_byte"] >= line["connect"] > 0
    assert (line["sent"], line["own"], line["tried"]) == (2, False, 0)


HOSTILE = b'x" 200 1 "-" "-"\tforged \\ \x9b2J \xff'


@pytest.mark.parametrize("form", [AccessLogForm.COMBINED, AccessLogForm.JSON])
async def test_28_what_a_stranger_sends_forges_no_line_and_speaks_to_no_terminal(world, tmp_path, form):
    file = tmp_path / "access.log"
    await world.start()
    await world.worker()
    await logging(world, form, file)
    client = await world.client()
    await client.send(b'GET /"%22\\ HTTP/1.1\r\nHost: x\r\nUser-Agent: ' + HOSTILE + b"\r\nReferer: \x80\r\n\r\n")
    assert (await client.response())[0] == 200
    await written(file, 1)
    raw = file.read_bytes()
    assert raw.count(b"\n") == 1
    assert all(0x20 <= byte <= 0x7E for byte in raw.rstrip(b"\n"))
    if form is AccessLogForm.COMBINED:
        found = COMBINED.fullmatch(raw.decode().rstrip("\n"))
        assert found["status"] == "200"
        assert "forged" in found["agent"]
    else:
        assert "forged" in json.loads(raw)["user_agent"]


async def test_28_one_of_so_many_requests_is_written(world, tmp_path):
    file = tmp_path / "access.log"
    await world.start()
    await world.worker()
    await logging(world, AccessLogForm.COMBINED, file, access_log_sample=3)
    for _ in range(9):
        await world.get()
    assert len(await written(file, 3)) == 3
    await logging(world, AccessLogForm.OFF, file)
    await world.get()
    await world.get()
    await world.get()
    assert len(file.read_text().splitlines()) == 3


async def test_28_a_file_that_cannot_be_written_is_told_once_and_no_request_suffers(world, tmp_path):
    (tmp_path / "file").write_text("")
    await world.start()
    await world.worker()
    await logging(world, AccessLogForm.COMBINED, tmp_path / "file" / "access.log")
    async with asyncio.timeout(30):
        while not world.told(EventKind.NOTE):
            assert await world.get() == 200
            await asyncio.sleep(0.05)
    for _ in range(5):
        assert await world.get() == 200
        await asyncio.sleep(0.11)
    (told,) = world.told(EventKind.NOTE)
    assert "cannot be written: Not a directory" in told


async def test_28_a_file_that_can_be_written_again_is_and_what_is_missing_is_told(world, tmp_path):
    place = tmp_path / "logs"
    place.write_text("in the way")
    await world.start()
    await world.worker()
    await logging(world, AccessLogForm.COMBINED, place / "access.log")

    async def told(words):
        async with asyncio.timeout(30):
            while not (found := [text for text in world.told(EventKind.NOTE) if words in text]):
                assert await world.get() == 200
                await asyncio.sleep(0.02)
        return found[0]

    await told("cannot be written")
    place.unlink()
    again = await told("is written again")
    total, lost = world.proxy.observe().totals.answered, int(re.search(r"; (\d+) lines? (?:is|are) missing", again)[1])
    assert lost > 0
    assert len(await written(place / "access.log", total - lost)) == total - lost


async def test_28_a_file_that_was_moved_away_is_begun_anew(world, tmp_path):
    file = tmp_path / "access.log"
    await world.start()
    await world.worker()
    await logging(world, AccessLogForm.COMBINED, file)
    await world.get("/before")
    await written(file, 1)
    file.rename(tmp_path / "yesterday")
    await world.get("/after")
    assert "/after" in (await written(file, 1))[0]
    assert len((tmp_path / "yesterday").read_text().splitlines()) == 1


async def test_28_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    log, told = await logged(pipe, 3, size=1)
    assert log.lost == 3  # nobody reads, and nobody waits for that
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log, told = await logged(pipe, 3, size=1)
    assert (log.lost, told) == (0, [])
    assert os.read(reader, 65536).count(b"\n") == 3
    os.close(reader)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


async def test_28_a_disk_that_is_full_costs_the_lines_that_do_not_fit_and_tears_no_others(tmp_path):
    """A limit on the size of files stands for the disk: the kernel writes what fits, then refuses."""
    file, told = tmp_path / "access.log", []
    log = AccessLog(file, AccessLogForm.COMBINED, 1, 1 << 20, told.append)
    length = len(await one_line(tmp_path / "one"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length * 2 + 10, hard))
    try:
        for _ in range(5):
            log.add(entry(1))
        async with asyncio.timeout(30):
            while log.lost < 3:
                await asyncio.sleep(0.02)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.add(entry(1))
    log.close()
    await asyncio.to_thread(log.join, 40)
    lines = file.read_text().splitlines()
    assert log.lost == 3
    assert [COMBINED.fullmatch(line) is not None for line in lines] == [True, True, False, True]
    assert told == [f"The access log {file} cannot be written: File too large"]


async def one_line(file):
    await logged(file, 1)
    return file.read_bytes()


def entry(number):
    return Entry(
        ended=0.0,
        own=False,
        identity=str(number),
        client="127.0.0.1",
        method=b"GET",
        target=b"/",
        status=200,
        outcome="answered",
    )


async def logged(file, count, size=1 << 20):
    """A log that got so many lines at once and was closed, and what it told."""
    told = []
    log = AccessLog(file, AccessLogForm.COMBINED, 1, size, told.append)
    for number in range(count):
        log.add(entry(number + 1))
    log.close()
    await asyncio.to_thread(log.join, 40)
    return log, told


async def test_28_a_long_file_is_followed_by_another_and_a_few_old_ones_are_kept(tmp_path):
    file = tmp_path / "access.log"
    for _ in range(access_log.KEPT + 3):
        await logged(file, 10, size=100)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["access.log", *(f"access.log.{number}" for number in range(1, access_log.KEPT + 1))]
    assert all(len((tmp_path / name).read_text().splitlines()) == 10 for name in kept)


async def test_28_lines_that_come_faster_than_the_disk_takes_them_are_counted_and_told(tmp_path):
    file = tmp_path / "access.log"
    log, told = await logged(file, access_log.MOST + 7)
    assert log.lost == 7
    assert len(file.read_text().splitlines()) == access_log.MOST
    assert told == ["The access log lost 7 lines: they came faster than the disk takes them"]
