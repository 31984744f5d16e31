"""Is a worker ready, and is it still well? Asked of the kernel and of the worker itself, never assumed.

READY means: a socket listens on the worker's port, that socket belongs to the worker's own session, and a GET of the
health path brought a 2xx. A healthy answer of a foreign process on that port is not READY.
"""

import asyncio
import contextlib
import re
import socket

from lab.pool import procfs, sockdiag

_FIRST_PAUSE = 0.001
_LATER_PAUSE = 0.005
_EAGER = 100
_PAUSE_AFTER_ANSWER = 0.02
_MOST = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)


class UnwellError(Exception):
    """A probe failed; the text says how, as the end of a sentence about the worker: `answered with status 500`."""


class StartProbe:
    """Watches one starting worker until it is ready. `why` says at any time what is still missing, in a sentence."""

    def __init__(self, pid: int, port: int) -> None:
        self._pid = pid
        self._port = port
        self.why = f"It does not listen on port {port} yet."

    async def passed(self, path: str, timeout: float) -> None:
        """Return once it is ready; each GET of `path` gets `timeout` seconds. Runs until then or until cancelled."""
        tries = 0
        while True:
            inode = sockdiag.listener(self._port)
            if inode is None:
                tries += 1
                await asyncio.sleep(_FIRST_PAUSE if tries < _EAGER else _LATER_PAUSE)
            elif not _belongs(inode, self._pid):
                self.why = f"Port {self._port} belongs to another process."
                await asyncio.sleep(_PAUSE_AFTER_ANSWER)
            else:
                try:
                    await get(self._port, path, timeout)
                    return
                except UnwellError as error:
                    self.why = f"It {error}."
                    await asyncio.sleep(_PAUSE_AFTER_ANSWER)


async def get(port: int, path: str, timeout: float) -> None:
    """GET `path` from 127.0.0.1:`port` on a connection of its own; raises `UnwellError` unless it brings a 2xx in time.

    The answer is read to its end, so that a worker is never killed by SIGPIPE for having been asked how it is.
    """
    received = bytearray()
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(timeout):
            await _converse(port, path, received)
    status = _STATUS.match(received)
    if status is None:
        raise UnwellError(_silence(path, timeout, bytes(received[:40])))
    if not status[1].startswith(b"2"):
        raise UnwellError(f"answered GET {path} with status {status[1].decode()}")


async def _converse(port: int, path: str, received: bytearray) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: cgilab-probe\r\nConnection: close\r\n\r\n"
        )
        await loop.sock_sendall(connection, request.encode())
        while not _is_whole(received) and (chunk := await loop.sock_recv(connection, _MOST)):
            received += chunk


def _is_whole(received: bytearray) -> bool:
    end = received.find(b"\r\n\r\n")
    length = _LENGTH.search(received, 0, end + 2) if end >= 0 else None
    return len(received) >= _MOST or (length is not None and len(received) >= end + 4 + int(length[1]))


def _silence(path: str, timeout: float, received: bytes) -> str:
    if received:
        return f"answered GET {path} with {received!r}, which is not HTTP"
    return f"did not answer GET {path} within {timeout:g} s"


def _belongs(inode: int, leader: int) -> bool:
    """Whether the socket is open in the session that `leader` leads."""
    return sockdiag.holds(leader, inode) or any(
        sockdiag.holds(pid, inode) for pid in procfs.session_members(leader) if pid != leader
    )
