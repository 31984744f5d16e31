"""Who listens on a TCP port, as the kernel tells it: one question by netlink, some ten microseconds.

A connect would not do: a foreign process may answer, a blocking worker would be disturbed by it, and a connect to a
free port of the ephemeral range can even succeed by connecting to itself. (/proc/net/tcp tells the same, 150 times
slower.) Source: sock_diag(7).
"""

import errno
import os
import socket
import struct
from pathlib import Path

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_TCP_LISTEN = 10
_HEADER = struct.Struct("=IHHII")
_SIZE_OF_REPLY = 72
_ANYBODY = 0xFFFFFFFF
_LOOPBACK = "127.0.0.1"


def listener(port: int) -> int | None:
    """The inode of the socket that accepts connections to 127.0.0.1:`port`, wildcard addresses included; else None."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(_question(port))
        reply = kernel.recv(4096)
    if len(reply) < _HEADER.size + _SIZE_OF_REPLY:
        _raise_unless_absent(struct.unpack_from("=i", reply, _HEADER.size)[0])
        return None
    state = reply[_HEADER.size + 1]
    inode: int = struct.unpack_from("=I", reply, _HEADER.size + _SIZE_OF_REPLY - 4)[0]
    return inode if state == _TCP_LISTEN else None


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


def _question(port: int) -> bytes:
    """struct inet_diag_req_v2: family, protocol, extensions, padding, states; then the socket's address and cookie."""
    asked = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 1 << _TCP_LISTEN)
    asked += struct.pack("!HH4s12x16x", port, 0, socket.inet_aton(_LOOPBACK))
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
