"""What programs say of themselves: READY=1 on NOTIFY_SOCKET, as sd_notify(3) has it.

Whoever can reach the socket could say so for another: the kernel tells who sent it (SO_PASSCRED, unix(7)), and a
notice counts for the session of its sender, which is that of one worker.
"""

import asyncio
import contextlib
import os
import socket
import struct

from lab.pool.sockets import RuntimeFolder

_UCRED = struct.Struct("iII")
_LONGEST = 4096
_MOST_SESSIONS = 4096
"""A program could speak from ever new sessions; those that nobody asked about are forgotten, the oldest first."""


class Notices:
    """Hears what the programs of one lab say. All calls are on one loop."""

    def __init__(self, folder: RuntimeFolder) -> None:
        self._folder = folder
        self._path = ""
        self._socket: socket.socket | None = None
        self._said: dict[int, asyncio.Event] = {}

    def address(self) -> str:
        """The value of NOTIFY_SOCKET. Raises `OSError` when there can be no such socket."""
        if self._socket is None:
            self._open()
        return self._path

    async def ready(self, leader: int) -> None:
        """Wait until a process of the session that `leader` leads has said READY=1."""
        await self._of(leader).wait()

    def forget(self, leader: int) -> None:
        """That session is over; its number may be given to another one."""
        self._said.pop(leader, None)

    def close(self) -> None:
        """Hear no more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _open(self) -> None:
        self._path = self._folder.path("notify")
        hearing = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            hearing.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            hearing.bind(self._path)
        except OSError:
            hearing.close()
            raise
        self._socket = hearing
        asyncio.get_running_loop().add_reader(hearing, self._hear)

    def _hear(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                said, ancillary, _, _ = self._socket.recvmsg(_LONGEST, socket.CMSG_SPACE(_UCRED.size))
                senders = [_UCRED.unpack(data[: _UCRED.size])[0] for _, kind, data in ancillary if _is_ucred(kind)]
                if senders and b"READY=1" in said.split(b"\n"):
                    with contextlib.suppress(ProcessLookupError):  # it has ended, and nothing tells whose it was
                        self._of(os.getsid(senders[0])).set()

    def _of(self, session: int) -> asyncio.Event:
        if session not in self._said:
            if len(self._said) >= _MOST_SESSIONS:
                del self._said[next(iter(self._said))]
            self._said[session] = asyncio.Event()
        return self._said[session]


def _is_ucred(kind: int) -> bool:
    return kind == socket.SCM_CREDENTIALS
