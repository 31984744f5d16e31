"""The kernel knows who listens."""

import os
import socket

import pytest

from lab.pool import sockdiag


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
)
def test_a_listener_is_found_by_its_port_whatever_address_it_bound(family, address):
    with socket.create_server((address, 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as server:
        inode = sockdiag.listener(server.getsockname()[1])
        assert inode == os.fstat(server.fileno()).st_ino
        assert sockdiag.holds(os.getpid(), inode)
        assert not sockdiag.holds(1, inode)


def test_a_socket_that_is_bound_but_does_not_listen_is_no_listener():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert sockdiag.listener(bound.getsockname()[1]) is None


def test_a_connection_has_an_inode_from_the_moment_it_is_accepted():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            asked = port, client.getsockname()[1]
            assert sockdiag.accepted(*asked) == 0
            accepted, _ = server.accept()
            assert sockdiag.accepted(*asked) == os.fstat(accepted.fileno()).st_ino
            accepted.close()
            client.recv(1)
        assert sockdiag.accepted(*asked) is None


def test_a_unix_listener_is_found_by_its_path_from_the_moment_it_listens(tmp_path):
    path = str(tmp_path / "a.b+c")
    with socket.socket(socket.AF_UNIX) as server:
        assert sockdiag.unix_listener(path) is None
        server.bind(path)
        assert sockdiag.unix_listener(path) is None
        server.listen()
        assert sockdiag.unix_listener(path) == os.fstat(server.fileno()).st_ino
    assert sockdiag.unix_listener(path) is None


def test_a_port_is_taken_while_somebody_listens_and_free_afterwards():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert sockdiag.is_taken(port)
    assert not sockdiag.is_taken(port)
    assert sockdiag.listener(port) is None
