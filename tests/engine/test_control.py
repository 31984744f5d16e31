"""The control socket under clients that are rude, slow, old, or late."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab import bootstrap
from lab.core.errors import NameInUseError, NoLabError, ProtocolError
from lab.core.model import ListenerSpec
from lab.engine import protocol
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab
from lab.engine.remote import RemoteLab
from lab.pool import forkserver


def empty_lab(control: Path) -> LocalLab:
    return bootstrap.local_lab(LabSpec(name="control", listener=ListenerSpec(port=0), own_rate=0), control=control)


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Path]:
    path = tmp_path / "run" / "lab.sock"
    lab = empty_lab(path)
    await asyncio.to_thread(lab.start)
    yield path
    await lab.close()
    assert not path.exists()


async def talk(path: Path, *lines: bytes, answered: int = 0) -> list[dict[str, object]]:
    """Send raw lines and return the greeting and so many answers; fewer only when the server hung up."""
    reader, writer = await asyncio.open_unix_connection(str(path), limit=2**24)
    answers = []
    writer.writelines(lines)
    async with asyncio.timeout(30):
        while len(answers) <= answered and (line := await reader.readline()):
            answers.append(json.loads(line))
    writer.close()
    return answers


async def test_the_socket_is_the_users_alone(control: Path) -> None:
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    assert stat.S_IMODE(control.parent.stat().st_mode) == 0o700


async def test_the_greeting_tells_the_version(control: Path) -> None:
    (greeting,) = await talk(control)
    assert greeting["cgilab"] == protocol.VERSION
    assert greeting["name"] == "control"
    assert greeting["pid"] == os.getpid()


async def test_answers_carry_the_id_of_their_request(control: Path) -> None:
    answers = await talk(control, b'{"id":7,"do":"heal"}\n{"id":9,"do":"spec"}\n', answered=2)
    assert [answer.get("id") for answer in answers] == [None, 7, 9]
    assert answers[1]["ok"] == 0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"id":1,"do":"explode"}\n', "explode"),
        (b'{"id":1,"do":"close"}\n', "close"),
        (b'{"id":1,"do":"scale","args":{"app":"x"}}\n', "workers"),
        (b'{"id":1,"do":"scale","args":{"app":"x","workers":"three"}}\n', "int"),
        (b'{"id":1,"do":"scale","args":{"app":"x","workers":3,"now":true}}\n', "now"),
        (b'{"id":1,"do":"subscribe","args":{"hz":1000}}\n', "hz"),
    ],
)
async def test_a_wrong_request_gets_an_error_and_the_connection_stays(control: Path, line: bytes, told: str) -> None:
    answers = await talk(control, line, b'{"id":2,"do":"heal"}\n', answered=2)
    error = answers[1]["error"]
    assert isinstance(error, dict)
    assert error["code"] == "protocol"
    assert told in str(error["message"])
    assert answers[2]["ok"] == 0


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\n", b"{\n", b'{"id":"x","do":1}\n', b"\xff\xfe\n", b"[]\n"])
async def test_a_line_that_is_no_request_is_answered_once_and_the_client_dropped(control: Path, line: bytes) -> None:
    answers = await talk(control, line, b'{"id":2,"do":"heal"}\n', answered=2)
    assert [answer.get("id") for answer in answers] == [None, None]
    assert "error" in answers[1]


async def test_a_line_without_end_is_dropped(control: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(control))
    await reader.readline()
    with pytest.raises(ConnectionError):
        for _ in range(200):
            writer.write(b"x" * 65536)
            await writer.drain()
    writer.close()


async def test_a_client_that_never_reads_is_dropped_and_delays_nobody(control: Path) -> None:
    deaf = socket.socket(socket.AF_UNIX)
    deaf.connect(str(control))
    deaf.setblocking(False)
    other = await RemoteLab.connect(control)
    request = b'{"id":1,"do":"' + b"x" * 60_000 + b'"}\n'
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(40):
        # Each error quotes the request, so what is unread grows until the server has had enough of it.
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            while True:
                await loop.sock_sendall(deaf, request)
                await other.snapshot()
    deaf.close()
    await other.close()


async def test_a_subscription_pushes_events_from_the_cursor_and_snapshots(control: Path) -> None:
    remote = await RemoteLab.connect(control)
    async for push in remote.subscribe(1, hz=10):
        assert push.snapshot is not None
        assert push.snapshot.name == "control"
        assert push.events.events[0].seq == 1
        break
    await remote.close()


async def test_a_subscription_that_is_given_up_does_not_hold_up_answers(control: Path) -> None:
    remote = await RemoteLab.connect(control)
    pushes = remote.subscribe(1, hz=10)
    await anext(pushes)
    async with asyncio.timeout(30):
        while not remote._pushes.full():
            await asyncio.sleep(0.02)
    await pushes.aclose()
    async with asyncio.timeout(30):
        for _ in range(10):  # pushes go on coming in between
            assert (await remote.snapshot()).name == "control"
            await asyncio.sleep(0.05)
    await remote.close()


async def test_a_subscriber_is_told_when_the_lab_ends(tmp_path: Path) -> None:
    path = tmp_path / "lab.sock"
    lab = empty_lab(path)
    await asyncio.to_thread(lab.start)
    remote = await RemoteLab.connect(path)
    pushes = remote.subscribe(1, hz=10)
    await anext(pushes)
    closing = asyncio.create_task(lab.close())
    with pytest.raises(NoLabError, match="went away"):
        async for _ in pushes:
            pass
    with pytest.raises(NoLabError):
        await remote.snapshot()
    await closing
    await remote.close()


async def test_a_second_lab_of_the_same_name_says_so_and_starts_nothing(control: Path) -> None:
    servers = forkserver.children(os.getpid())
    second = empty_lab(control)
    with pytest.raises(NameInUseError, match=str(control)) as caught:
        await asyncio.to_thread(second.start)
    assert "cgilab attach --name control" in caught.value.remedy
    assert forkserver.children(os.getpid()) == servers
    assert (await talk(control))[0]["name"] == "control"


async def test_the_socket_of_a_dead_lab_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lab.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    lab = empty_lab(path)
    await asyncio.to_thread(lab.start)
    assert (await talk(path))[0]["name"] == "control"
    await lab.close()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lab.sock"
    path.write_text("precious")
    with pytest.raises(NameInUseError):
        await asyncio.to_thread(empty_lab(path).start)
    assert path.read_text() == "precious"


async def test_no_lab_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NoLabError) as caught:
        await RemoteLab.connect(tmp_path / "nothing.sock")
    assert "cgilab up" in caught.value.remedy


async def test_a_lab_of_another_protocol_version_is_refused(tmp_path: Path) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"cgilab":99,"version":"9.0","name":"lab","pid":1,"read_only":false}\n')
        await writer.drain()
        writer.close()

    path = tmp_path / "lab.sock"
    async with await asyncio.start_unix_server(greet, str(path)):
        with pytest.raises(ProtocolError, match="99"):
            await RemoteLab.connect(path)
