"""Clients of every kind for the soak: those that behave, those that are slow or leave, and those that send anything.

A visit that behaves knows what it has to get; one that got something else says so in `Visitors.surprises`. While
workers are being killed that is no fault by itself, but while nothing is broken it is one.
"""

import asyncio
import base64
import contextlib
import os
import random
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

CORPORA = Path(__file__).parents[1] / "corpora" / "requests"
PATIENCE = 200.0
"""Seconds. Whose visit takes longer counts as forgotten: each of its requests may wait for several timeouts."""


class Visitors:
    """Clients of one gateway. `plain` are paths that answer a GET; `counting` ones say how long a body was.

    With `tls` they speak TLS, but for those who do not know better or leave in the middle of the handshake.
    """

    def __init__(
        self,
        port: int,
        rng: random.Random,
        plain: list[str],
        counting: list[str],
        echo: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.statuses: Counter[str] = Counter()
        self.surprises: list[str] = []
        """What behaved and got something else than it had to."""
        self.forgotten: list[str] = []
        """Who waited for ever."""
        self._port, self._rng, self._tls = port, rng, tls
        self._plain, self._counting, self._echo = plain, counting, echo
        self._seeds = [path.read_bytes() for path in sorted(CORPORA.glob("*.bin"))]
        self._visits: list[Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]] = [
            *[self.one] * 6, self.keep_alive, self.keep_alive, self.pipelined, self.upload, self.chunked, self.tunnel,
            self.slow, self.aborted, self.bad, *([self.unknowing, self.hasty] if tls is not None else []),
        ]  # fmt: skip

    async def come_and_go(self) -> None:
        """One client after another, for ever, each on a connection of its own."""
        while True:
            visit = self._rng.choice(self._visits)
            tls = None if visit in (self.unknowing, self.hasty) else self._tls
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=tls)
            try:
                async with asyncio.timeout(PATIENCE):
                    await visit(reader, writer)
            except TimeoutError:
                self.forgotten.append(f"{visit.__name__} waited {PATIENCE:g} s")
            except (OSError, asyncio.IncompleteReadError):
                self._got(visit.__name__, "broken", good=visit in (self.aborted, self.bad, self.tunnel))
            finally:
                writer.transport.abort()
            await asyncio.sleep(self._rng.uniform(0, 0.02))

    # -- visits that behave

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As an old browser: one request, until the end."""
        writer.write(f"GET {self._rng.choice(self._plain)}?q=http HTTP/1.0\r\n\r\n".encode())
        status, _ = await answer(reader)
        self._got("one", str(status), good=status == 200)
        await reader.read()

    async def keep_alive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Several requests, with pauses between them."""
        for _ in range(self._rng.randint(2, 6)):
            writer.write(self._get())
            status, _ = await answer(reader)
            self._got("keep_alive", str(status), good=status == 200)
            await asyncio.sleep(self._rng.uniform(0, 0.1))

    async def pipelined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All at once."""
        writer.write(b"".join(self._get() for _ in range(5)))
        for _ in range(5):
            status, _ = await answer(reader)
            self._got("pipelined", str(status), good=status == 200)

    async def slow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A head that trickles in."""
        request = self._get()
        for begin in range(0, len(request), 9):
            writer.write(request[begin : begin + 9])
            await asyncio.sleep(0.02)
        status, _ = await answer(reader)
        self._got("slow", str(status), good=status == 200)

    async def upload(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A body of a length that is told."""
        size = self._rng.choice((0, 1, 70_000, 400_000))
        path = self._rng.choice(self._counting)
        writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), size))
        writer.write(bytes(size))
        status, body = await answer(reader)
        self._got("upload", str(status), good=(status, body) == (200, b"%d" % size))

    async def chunked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A body that comes piece by piece."""
        path = self._rng.choice(self._counting)
        writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % path.encode())
        pieces = [self._rng.randint(1, 20_000) for _ in range(self._rng.randint(0, 4))]
        for size in pieces:
            writer.write(b"%x\r\n%b\r\n" % (size, bytes(size)))
            await asyncio.sleep(0.005)
        writer.write(b"0\r\n\r\n")
        status, body = await answer(reader)
        self._got("chunked", str(status), good=(status, body) == (200, b"%d" % sum(pieces)))

    async def tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A WebSocket that says something and hears it again. A worker that is replaced may end it: that is told."""
        key = base64.b64encode(os.urandom(16)).decode()
        fields = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"
        writer.write(f"GET {self._echo} HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        self._got("tunnel", str(status), good=status == 101)
        for size in (1, 100, 60_000) if status == 101 else ():
            said = self._rng.randbytes(size)
            writer.write(_masked(said))
            opcode, heard = await _frame(reader)
            if opcode != 2:
                return
            self._got("tunnel", "echo", good=heard == said)

    # -- visits that do not

    async def aborted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Leaves in the middle of something."""
        request = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" % self._counting[0].encode()
        writer.write(self._rng.choice((request + bytes(40_000), self._get()[:20], self._get() * 3)))
        await asyncio.sleep(self._rng.uniform(0, 0.05))
        self._got("aborted", "left", good=True)

    async def bad(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Sends what nobody should."""
        writer.write(self._rng.choice(self._seeds))
        try:
            async with asyncio.timeout(0.2):
                data = await reader.read(65536)
                self._got("bad", data[9:12].decode("latin-1") or "end", good=True)
        except TimeoutError:
            self._got("bad", "waited for more", good=True)

    async def unknowing(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speaks plain HTTP where TLS is spoken, and is told so."""
        writer.write(self._get())
        status, _ = await answer(reader)
        self._got("unknowing", str(status), good=status == 400)

    async def hasty(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begins a handshake, and leaves before it is over."""
        assert self._tls is not None
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        handshake = self._tls.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            handshake.do_handshake()
        hello = outgoing.read()
        writer.write(hello[: self._rng.randint(1, len(hello))])
        await asyncio.sleep(self._rng.uniform(0, 0.05))
        self._got("hasty", "left", good=True)

    def _get(self) -> bytes:
        return f"GET {self._rng.choice(self._plain)}?q=http HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    def _got(self, visit: str, what: str, good: bool) -> None:
        self.statuses[f"{visit} {what}"] += 1
        if not good and len(self.surprises) < 20:
            self.surprises.append(f"{visit}: {what}")


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next answer. Raises `IncompleteReadError` when it breaks off."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    if b"\r\ntransfer-encoding: chunked" in head:
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return status, body
    _, found, length = head.partition(b"\r\ncontent-length:")
    return status, await reader.readexactly(int(length.split(b"\r\n")[0])) if found else await reader.read()


def _masked(payload: bytes) -> bytes:
    """A client's binary frame (RFC 6455 5.2); masked with zeros, which leave it as it is."""
    size = len(payload)
    length = struct.pack(">B", 0x80 | size) if size < 126 else struct.pack(">BH", 0x80 | 126, size)
    return b"\x82" + length + bytes(4) + payload


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Opcode and payload of a server's frame."""
    first, size = await reader.readexactly(2)
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2))
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8))
    return first & 15, await reader.readexactly(size)
