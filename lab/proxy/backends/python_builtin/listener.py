"""The listening socket, and an honest word about who has the port when we cannot have it."""

import errno
import socket
from typing import Final

from lab.core.errors import PortInUseError, UnavailableError
from lab.core.model import ListenerSpec
from lab.ports import holder_of

BACKLOG: Final = 1024
"""Connections that the kernel keeps until the proxy accepts them. Whoever listens again has to say so again."""


def listen(spec: ListenerSpec) -> socket.socket:
    """A listening TCP socket. Raises `PortInUseError`, or `UnavailableError` for an address that cannot be had.

    SO_REUSEADDR lets a new lab listen while connections of the old one fade away. SO_REUSEPORT is not set: with it two
    labs would share the port, and each would miss half of the requests.
    """
    family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((spec.host, spec.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            holder = holder_of(spec.port) or "another process"
            raise PortInUseError(
                f"Port {spec.port} is in use by {holder}.", "Stop it, or choose another port with --port."
            ) from error
        raise UnavailableError(
            f"Cannot listen at {spec.host} port {spec.port}: {error.strerror}.", "Choose another address or port."
        ) from error
    return sock
