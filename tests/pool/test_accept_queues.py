"""What the kernel tells of listening sockets, held against sockets that the test itself has opened."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab.pool.accept_queues import AcceptQueue, Address, look


@contextmanager
def listening(where: str | tuple[str, int], backlog: int) -> Iterator[tuple[socket.socket, Address]]:
    """A server that accepts nobody by itself."""
    family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    with socket.socket(family) as server:
        server.bind(where)
        server.listen(backlog)
        yield server, where if isinstance(where, str) else server.getsockname()[1]


@pytest.mark.parametrize("kind", ["127.0.0.1", "0.0.0.0", "::", "unix"])
def test_those_who_wait_are_told_apart_from_those_who_were_accepted(kind: str, tmp_path: Path) -> None:
    with listening(str(tmp_path / "s") if kind == "unix" else (kind, 0), 7) as (server, address), ExitStack() as opened:
        assert look([address]) == {address: AcceptQueue(established=0, waiting=0, room=7)}
        for _ in range(3):
            client = opened.enter_context(socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET))
            client.connect(address if kind == "unix" else ("127.0.0.1", address))
        assert look([address]) == {address: AcceptQueue(established=0, waiting=3, room=7)}
        accepted = opened.enter_context(server.accept()[0])
        assert look([address]) == {address: AcceptQueue(established=1, waiting=2, room=7)}
        accepted.close()
        assert look([address]) == {address: AcceptQueue(established=0, waiting=2, room=7)}


def test_several_are_asked_at_once_and_one_where_nobody_listens_is_missing(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listening(path, 1) as (_, unix), listening(("127.0.0.1", 0), 2) as (_, port):
        assert look([unix, port, 1, str(tmp_path / "other")]).keys() == {unix, port}
    assert look([]) == {}
