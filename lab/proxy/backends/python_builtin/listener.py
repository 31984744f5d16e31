"""The listening socket, and an honest word about who has the port when we cannot have it."""

import contextlib
import errno
import socket
from pathlib import Path

from lab.core.errors import NotPossibleError, PortInUseError
from lab.core.model import ListenerSpec

_BACKLOG = 1024
_LISTEN = "0A"
"""TCP_LISTEN as /proc/net/tcp writes it (include/net/tcp_states.h)."""


def listen(spec: ListenerSpec) -> socket.socket:
    """A listening TCP socket. Raises `PortInUseError`, or `NotPossibleError` for an address that cannot be had.

    SO_REUSEADDR lets a new lab listen while connections of the old one fade away. SO_REUSEPORT is not set: with it two
    labs would share the port, and each would miss half of the requests.
    """
    family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((spec.host, spec.port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            holder = holder_of(spec.port) or "another process"
            raise PortInUseError(
                f"Port {spec.port} is in use by {holder}.", "Stop it, or choose another port with --port."
            ) from error
        raise NotPossibleError(
            f"Cannot listen at {spec.host} port {spec.port}: {error.strerror}.", "Choose another address or port."
        ) from error
    return sock


def holder_of(port: int) -> str | None:
    """Name and PID of a process that listens on a TCP port; None when it is not ours to see."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for process in Path("/proc").glob("[0-9]*"):
        if sockets & _descriptors(process):
            return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return None


def _descriptors(process: Path) -> set[str]:
    """What a process has open, as far as we may see it."""
    found = set()
    with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to somebody else
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found.add(str(descriptor.readlink()))
    return found


def _listening(port: int) -> list[str]:
    """Inodes of the sockets that listen on a port."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue  # no IPv6 here
        for row in map(str.split, rows):
            if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port:
                found.append(row[9])
    return found
