"""Clients on their way into TLS, and out of it: real handshakes that are slow, break off, fail or are too many."""

import asyncio
import contextlib
import gc
import random
import socket
import ssl
import struct

import pytest

from lab.core.events import EventKind
from lab.core.model import ClientTimeouts, Limits
from lab.proxy.backends.python_builtin.crowd import SURPLUS
from tests.conformance.conftest import GET, Client
from tests.conformance.test_tls import SELF_SIGNED, secret, started, trusting

LAST = b"GET / HTTP/1.0\r\n\r\n"


class Spoken:
    """A client that has TLS in its own hands, so that it can stop, leave or end its half wherever it likes."""

    def __init__(self, client: Client, context: ssl.SSLContext) -> None:
        self.client = client
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def said(self) -> bytes:
        """What it has to send."""
        return self._outgoing.read()

    async def take(self) -> None:
        self._incoming.write(await asyncio.wait_for(self.client.reader.read(65536), 30))

    async def shake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.client.send(self.said())
                await self.take()
            else:
                await self.client.send(self.said())
                return

    async def heard(self, until: bytes | None = None) -> bytes:
        """Everything until the end of TLS. Raises `ssl.SSLWantReadError` when the connection ended without it."""
        data = b""
        while until is None or until not in data:
            try:
                piece = self.tls.read(65536)
            except ssl.SSLZeroReturnError:  # both have said everything
                break
            except ssl.SSLWantReadError:
                if self.client.reader.at_eof():
                    raise
                await self.take()
                continue
            if not piece:
                break
            data += piece
        return data


async def spoken(world, context=None) -> Spoken:
    return Spoken(await world.client(), context or trusting(world))


def hello(world) -> bytes:
    """What a client says first."""
    outgoing = ssl.MemoryBIO()
    tls = trusting(world).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def failed(world) -> dict[str, int]:
    return world.proxy.observe().handshakes_failed


async def test_24_tls_a_handshake_has_the_time_of_a_head_however_far_it_comes(world):
    await started(world, clients=ClientTimeouts(request_head=0.4, idle=600, drain=0))
    first = hello(world)
    for said in (b"", first[:1], first[:100], first):
        await (client := await world.client()).send(said)
        assert await client.ended() in (None, ConnectionResetError)
    assert failed(world) == {"too slow": 4}
    assert world.proxy.observe().handshakes == 0


async def test_24_tls_byte_by_byte_a_handshake_has_no_more_time(world):
    await started(world, clients=ClientTimeouts(request_head=0.4, idle=600, drain=0))
    client = await world.client()

    async def drip() -> None:
        with contextlib.suppress(OSError):
            for byte in hello(world):
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0.05)

    dripping = asyncio.ensure_future(drip())
    await world.until(lambda: failed(world) == {"too slow": 1})
    assert not dripping.done()
    dripping.cancel()


async def test_23_tls_whoever_is_in_the_middle_of_a_handshake_counts_as_connected(world):
    await started(world, limits=Limits(connections=2))
    first = hello(world)
    many = 2 + SURPLUS + 30
    stuck = [await world.client() for _ in range(many)]
    for number, client in enumerate(stuck):
        await client.send(first[: number % 2])
    await world.until(lambda: failed(world).get("too many", 0) == 30)
    assert world.proxy.observe().handshakes == many - 30
    for client in stuck[:30]:
        assert await client.ended() in (None, ConnectionResetError)
    await (client := await secret(world)).send(GET)  # whoever hurries comes in all the same
    assert (await client.response())[0] == 200
    view = world.proxy.observe()
    assert view.handshakes + view.connections <= 2 + SURPLUS


async def test_28_tls_handshakes_that_fail_are_counted_by_cause_and_are_no_requests(world):
    await started(world)
    first = hello(world)
    await (leaves := await world.client()).send(first[:50])
    leaves.close()
    await world.until(lambda: failed(world) == {"client left": 1})
    await (resets := await world.client()).send(first)
    await resets.reader.read(1)
    resets.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    resets.writer.transport.abort()
    await world.until(lambda: failed(world) == {"client left": 2})
    await (babbles := await world.client()).send(b"\x16\x03\x01\x02\x00" + bytes(600))
    await babbles.ended()
    assert failed(world) == {"client left": 2, "not understood": 1}
    await (unknowing := await world.client()).send(GET)
    assert (await unknowing.response())[0] == 400  # it is answered, so it counts as a request
    assert failed(world) == {"client left": 2, "not understood": 1}
    assert world.proxy.observe().totals.accepted == 1


async def test_28_tls_a_client_that_does_not_trust_the_certificate_is_told_of_with_what_to_do(world):
    await started(world)
    client = await spoken(world, ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        await client.shake()
    await client.client.send(client.said())
    await world.until(lambda: failed(world) == {"certificate refused": 1})
    assert world.told(EventKind.NOTE) == [
        "A client at 127.0.0.1 does not trust the lab's certificate (tlsv1 alert unknown ca)."
        f" Tell it to trust {world.proxy.observe().certificate}, as with curl --cacert."
    ]


async def test_27_tls_a_proxy_that_closes_waits_for_no_handshake(world):
    await started(world)
    clients = [await world.client() for _ in range(3)]
    await clients[1].send(hello(world)[:50])
    await clients[2].send(hello(world))
    await world.until(lambda: world.proxy.observe().handshakes == 3)
    await asyncio.wait_for(world.proxy.close(), 4)
    for client in clients:
        assert await client.ended() in (None, ConnectionResetError)
    assert failed(world) == {}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_a_client_may_end_its_half_behind_its_last_request(world, version):
    worker = await started(world)
    client = await spoken(world, trusting(world, version))
    await client.shake()
    client.tls.write(LAST)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.tls.unwrap()
    await client.client.send(client.said())
    assert (await client.heard()).endswith(b"\r\n\r\nok")
    assert len(worker.requests) == 1


async def test_10_tls_an_end_without_a_word_ends_the_request_too(world):
    asked, over = asyncio.Event(), asyncio.Event()

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        over.set()

    await world.start(listener=SELF_SIGNED)
    await world.worker(handler=handler)
    client = await spoken(world)
    await client.shake()
    client.tls.write(LAST)
    await client.client.send(client.said())
    await asyncio.wait_for(asked.wait(), 30)
    client.client.writer.write_eof()
    await asyncio.wait_for(over.wait(), 30)
    await world.until(lambda: world.proxy.observe().totals.abandoned == 1)
    await world.until(lambda: world.proxy.observe().connections == 0)


async def test_26_tls_a_slow_client_gets_all_of_the_last_answer(world):
    size = 2_000_000

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + bytes(size))
        await writer.drain()

    await world.start(listener=SELF_SIGNED)
    await world.worker(handler=handler)
    world.proxy._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)  # clients inherit it
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, world.address)
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    client = Spoken(Client(reader, writer), trusting(world))
    world._clients.append(client.client)
    await client.shake()
    client.tls.write(LAST)
    await client.client.send(client.said())
    while not world.proxy.observe().totals.answered:
        await client.take()
    await asyncio.sleep(2.5)  # it does nothing for a while, and takes the rest then
    head, _, body = (await client.heard()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert len(body) == size


async def test_26_tls_what_a_client_held_is_free_when_it_leaves(world):
    await started(world)

    def held() -> int:
        return sum(isinstance(one, ssl.SSLObject) and one.server_side for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            await (client := await secret(world)).send(GET)
            assert (await client.response())[0] == 200
            assert held() == 1
            client.close()
            await world.until(lambda: world.proxy.observe().connections == 0)
            assert held() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("first", ["client", "worker"])
async def test_15_tls_one_direction_of_a_tunnel_may_end_before_the_other(world, first):
    heard = asyncio.get_running_loop().create_future()

    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        if first == "worker":
            writer.write(b"this is all")
            writer.write_eof()
        heard.set_result(await reader.read())
        if first == "client":
            writer.write(b"this is all")

    await world.start(listener=SELF_SIGNED)
    await world.worker(handler=handler)
    client = await spoken(world)
    await client.shake()
    client.tls.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"))
    await client.client.send(client.said())
    await client.heard(until=b"\r\n\r\n")
    if first == "worker":
        assert await client.heard() == b"this is all"
    client.tls.write(b"all of it")
    with contextlib.suppress(ssl.SSLError):
        client.tls.unwrap()
    await client.client.send(client.said())
    if first == "client":
        assert await client.heard() == b"this is all"
    assert await asyncio.wait_for(heard, 30) == b"all of it"
    await world.until(lambda: world.proxy.observe().totals.tunnels == 0)


async def test_10_tls_a_record_that_was_tampered_with_reaches_nobody(world):
    worker = await started(world)
    client = await spoken(world)
    await client.shake()
    client.tls.write(GET)
    good = client.said()
    await client.client.send(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ssl.SSLError, match="bad record mac"):
        await client.heard()
    await world.until(lambda: world.proxy.observe().connections == 0)
    assert worker.requests == []
    assert world.proxy.observe().totals.accepted == 0


@pytest.mark.parametrize("seed", range(5))
async def test_08_tls_requests_are_the_same_however_their_bytes_are_cut(world, seed):
    rng = random.Random(seed)
    worker = await started(world)
    client = await spoken(world)
    await client.shake()
    asked = [f"GET /{number} HTTP/1.1\r\nHost: x\r\nX: {'x' * rng.randint(0, 30_000)}\r\n\r\n" for number in range(20)]
    text = "".join(asked).encode()
    while text:
        text = text[client.tls.write(text[: rng.randint(1, 20_000)]) :]
    said = client.said()
    while said:
        size = rng.choice((1, 5, 100, 16_384, 20_000, 40_000))
        await client.client.send(said[:size])
        said = said[size:]
        await asyncio.sleep(0)
    heard = b""
    while heard.count(b"\r\n\r\nok") < len(asked):
        heard += await client.heard(until=b"ok")
    assert [head.split(b" ")[1] for head in worker.requests] == [b"/%d" % number for number in range(20)]
