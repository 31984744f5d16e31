"""A question over a real socket: who is told what, and when nobody is blamed."""

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.wire.probe import Probe
from lab.wire.question import Get

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\n\r\nok"
PATIENCE = 30.0
RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: what is closed is reset."""


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """It listens. The kernel connects whoever asks, so that a test accepts without waiting."""
    with socket.socket(socket.AF_UNIX if request.param == "unix" else socket.AF_INET) as server:
        server.bind(str(tmp_path / "socket") if request.param == "unix" else ("127.0.0.1", 0))
        server.listen()
        server.settimeout(PATIENCE)
        yield server


def asked(server: socket.socket) -> tuple[Probe, socket.socket]:
    """A probe, and the connection on which its question was heard."""
    probe = Probe(server.getsockname())
    probe.ask(Get("/health"))
    connection, _ = server.accept()
    assert connection.recv(4096) == Get("/health").words
    return probe, connection


async def test_22_a_right_answer_is_heard_once_it_is_whole(server):
    probe, connection = asked(server)
    with connection:
        connection.sendall(OK[:-1])
        answer = asyncio.ensure_future(probe.answer(PATIENCE))
        await asyncio.sleep(0)
        assert not answer.done()
        connection.sendall(OK[-1:])
        assert await answer == ""
        assert probe.over


@pytest.mark.parametrize("said", [OK, UNTIL_CLOSE], ids=["whole", "until its end"])
async def test_22_what_came_while_the_loop_was_held_up_counts_before_the_deadline_does(server, said):
    probe, connection = asked(server)
    loop, (one, other) = asyncio.get_running_loop(), socket.socketpair()

    def hold_up() -> None:
        """Of all that is due after it, the deadline comes first on uvloop."""
        loop.remove_reader(one)
        connection.sendall(said)
        connection.close()
        time.sleep(0.1)

    with one, other:
        loop.add_reader(one, hold_up)
        other.send(b"x")
        assert await probe.answer(0.05) == ""


async def test_22_a_late_answer_can_be_waited_for_again(server):
    probe, connection = asked(server)
    with connection:
        assert await probe.answer(0.01) is None
        assert not probe.over
        connection.sendall(OK)
        assert await probe.answer(PATIENCE) == ""


async def test_22_who_hangs_up_has_not_answered(server):
    probe, connection = asked(server)
    connection.close()
    assert await probe.answer(PATIENCE) == "hung up instead of answering GET /health"


@pytest.mark.parametrize(("said", "wrong"), [(UNTIL_CLOSE, ""), (b"", "hung up instead of answering GET /health")])
async def test_22_what_came_before_a_reset_counts(said, wrong):
    with socket.create_server(("127.0.0.1", 0)) as server:
        probe, connection = asked(server)
        connection.sendall(said)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.close()
        assert await probe.answer(PATIENCE) == wrong


async def test_22_who_hung_up_before_it_was_asked_has_not_answered(server):
    probe = Probe(server.getsockname())
    server.accept()[0].close()
    probe.ask(Get("/health"))
    assert await probe.answer(PATIENCE) == "hung up instead of answering GET /health"


async def test_22_a_refusal_is_heard_as_the_answer(server):
    address = server.getsockname()
    server.close()
    probe = Probe(address)
    probe.ask(Get("/health"))
    assert await probe.answer(PATIENCE) == "did not accept a connection for GET /health (Connection refused)"


async def test_who_has_hung_up_hears_nothing_more(server):
    probe, connection = asked(server)
    heard: list[str] = []
    probe.hear(heard.append)
    with connection:
        connection.sendall(OK)
        probe.hang_up()
        probe.look()
        await asyncio.sleep(0)
        with pytest.raises(ConnectionResetError):  # nobody has read what was sent
            connection.recv(1)
    assert heard == []
