"""Who listens on a TCP port or Unix path, and who accepted a connection, as the kernel tells it.

A connect would not do: a foreign process may answer, a blocking worker would be disturbed by it, and a connect to a
free port of the ephemeral range can even succeed by connecting to itself. A question about TCP goes by netlink and
takes some ten microseconds. (/proc/net/tcp tells the same, 150 times slower.) Source: sock_diag(7).
"""

import errno
import os
import re
import socket
import struct
from pathlib import Path

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_TCP_ESTABLISHED = 1
_TCP_LISTEN = 10
_HEADER = struct.Struct("=IHHII")
_SIZE_OF_REPLY = 72
_ANYBODY = 0xFFFFFFFF
_LOOPBACK = "127.0.0.1"
_LISTENS_AT = rb" 00010000 [0-9A-F]+ [0-9A-F]+ +([0-9]+) %b\n"
"""A line of /proc/net/unix from its flags on, of which this one is SO_ACCEPTCON."""


def listener(port: int) -> int | None:
    """The inode of the socket that accepts connections to 127.0.0.1:`port`, wildcard addresses included; else None."""
    found = _ask(port, None)
    return found[1] if found is not None and found[0] == _TCP_LISTEN else None


def accepted(port: int, client: int) -> int | None:
    """The inode of the server's end of the connection from 127.0.0.1:`client` to 127.0.0.1:`port`.

    0 while nobody has accepted it: it belongs to no file yet. None when it is not established (any more).
    """
    found = _ask(port, client)
    return found[1] if found is not None and found[0] == _TCP_ESTABLISHED else None


def unix_listener(path: str) -> int | None:
    """The inode of the socket that listens at `path`; None while there is none."""
    if not Path(path).exists():  # far cheaper than what follows, and asked every millisecond while a worker starts
        return None
    found = re.search(_LISTENS_AT % re.escape(os.fsencode(path)), Path("/proc/net/unix").read_bytes())
    return int(found[1]) if found else None


def holds(pid: int, inode: int) -> bool:
    """Whether the process has this socket open."""
    try:
        return any(_is_socket(link, inode) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def free_port() -> int:
    """A TCP port of the loopback address that was free just now."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_taken(port: int) -> bool:
    """Whether a program that binds this port now gets EADDRINUSE (connections in TIME_WAIT not counted)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        return False


def _ask(port: int, client: int | None) -> tuple[int, int] | None:
    """State and inode of the socket that serves a connection from `client`, or that would accept one; None if none."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(_question(port, client))
        reply = kernel.recv(4096)
    if len(reply) < _HEADER.size + _SIZE_OF_REPLY:
        _raise_unless_absent(struct.unpack_from("=i", reply, _HEADER.size)[0])
        return None
    return reply[_HEADER.size + 1], struct.unpack_from("=I", reply, _HEADER.size + _SIZE_OF_REPLY - 4)[0]


def _question(port: int, client: int | None) -> bytes:
    """struct inet_diag_req_v2: family, protocol, extensions, padding, states; then both addresses and a cookie."""
    loopback = socket.inet_aton(_LOOPBACK)
    asked = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    asked += struct.pack("!HH4s12x4s12x", port, client or 0, loopback, loopback if client else b"")
    asked += struct.pack("=III", 0, _ANYBODY, _ANYBODY)
    return _HEADER.pack(_HEADER.size + len(asked), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + asked


def _raise_unless_absent(code: int) -> None:
    if -code != errno.ENOENT:
        raise OSError(-code, os.strerror(-code))


def _is_socket(link: Path, inode: int) -> bool:
    try:
        return str(link.readlink()) == f"socket:[{inode}]"
    except OSError:  # closed meanwhile
        return False
