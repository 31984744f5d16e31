"""The echo sample through the lab: a WebSocket client of somebody else's making (wsproto), real workers in between."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

from lab import bootstrap, paths
from lab.core.snapshot import LabSnapshot

PATIENCE = 60


class Talker:
    """One WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._speech = WSConnection(ConnectionType.CLIENT)
        self._heard: list[Event] = []

    @classmethod
    async def meet(cls, port: int) -> "Talker":
        talker = cls(*await asyncio.open_connection("127.0.0.1", port))
        talker.say(Request(host=f"127.0.0.1:{port}", target="/echo"))
        assert isinstance(await talker.hear(), AcceptConnection)
        return talker

    def say(self, *events: Event) -> None:
        for event in events:
            self._writer.write(self._speech.send(event))

    def blurt(self, data: bytes) -> None:
        """Send what no client should."""
        self._writer.write(data)

    async def hear(self) -> Event:
        """The next event; what came of a message in pieces is one. Raises `EOFError` at an end without closing."""
        message: Any = None
        while True:
            while self._heard:
                event = self._heard.pop(0)
                if not isinstance(event, Message):
                    return event
                message = event.data if message is None else message + event.data
                if event.message_finished:
                    return type(event)(message)
            data = await asyncio.wait_for(self._reader.read(65536), PATIENCE)
            if not data:
                raise EOFError
            self._speech.receive_data(data)
            self._heard = list(self._speech.events())

    async def echoes(self, event: Event) -> bool:
        self.say(event)
        return await self.hear() == event

    def leave(self) -> None:
        self._writer.transport.abort()


@pytest.fixture
async def lab() -> AsyncIterator[bootstrap.LocalLab]:
    spec = bootstrap.lab_spec(paths.content("samples") / "websocket.json", port=0, name="websocket")
    lab = bootstrap.local_lab(spec, control=None)
    await asyncio.to_thread(lab.start)
    await lab.traffic(0)
    await until(lab, lambda now: all(worker.routed for worker in now.apps[0].workers) and now.apps[0].workers)
    yield lab
    await lab.close()


async def until(lab: bootstrap.LocalLab, condition: Any) -> LabSnapshot:
    async with asyncio.timeout(PATIENCE):
        while not condition(snapshot := await lab.snapshot()):
            await lab.events(snapshot.events_next, wait=0.1)
    return snapshot


async def test_15_messages_come_back_whatever_they_are_made_of(lab: bootstrap.LocalLab) -> None:
    talker = await Talker.meet((await lab.snapshot()).port)
    assert await talker.echoes(TextMessage("grüß dich"))
    assert await talker.echoes(TextMessage(""))
    for size in (1, 125, 126, 65535, 65536, 1 << 20):
        assert await talker.echoes(BytesMessage(os.urandom(size)))
    talker.say(
        TextMessage("in ", message_finished=False),
        Ping(b"between"),
        TextMessage("three ", message_finished=False),
        TextMessage("pieces"),
    )
    assert await talker.hear() == Pong(b"between")
    assert await talker.hear() == TextMessage("in three pieces")
    talker.say(CloseConnection(1000))
    assert await talker.hear() == CloseConnection(1000, "")
    with pytest.raises(EOFError):
        await talker.hear()
    talker.leave()
    after = await until(lab, lambda now: now.totals.accepted and not now.totals.tunnels)
    assert (after.totals.accepted, after.totals.answered, after.apps[0].tunnels) == (1, 1, 0)
    assert after.totals.tunnel_bytes > 2 << 20
    async with httpx.AsyncClient() as client:
        page = (await client.get(f"{after.listener}/-/metrics")).text
    ended = [
        (sample.name, sample.labels.get("app") or sample.labels.get("route"), sample.labels["cause"], sample.value)
        for family in text_string_to_metric_families(page)
        if family.name.endswith("tunnels_ended")
        for sample in family.samples
    ]
    assert ended == [
        ("cgilab_route_tunnels_ended_total", "echo", "worker_closed", 1.0),
        ("cgilab_app_tunnels_ended_total", "echo", "worker_closed", 1.0),
    ]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"\x81\x02hi", 1002),
        (b"\xc1\x80\x00\x00\x00\x00", 1002),
        (b"\x80\x80\x00\x00\x00\x00", 1002),
        (b"\x09\x80\x00\x00\x00\x00", 1002),
        (b"\x83\x80\x00\x00\x00\x00", 1002),
        (b"\x81\x81\x00\x00\x00\x00\xff", 1007),
        (b"\x82\xff\x00\x00\x00\x01\x00\x00\x00\x00", 1009),
    ],
    ids=["not masked", "reserved bit", "rest of nothing", "ping in pieces", "unknown opcode", "no text", "too long"],
)
async def test_the_sample_says_why_it_ends_a_conversation(lab: bootstrap.LocalLab, wrong: bytes, code: int) -> None:
    talker = await Talker.meet((await lab.snapshot()).port)
    talker.blurt(wrong)
    closed = await talker.hear()
    assert isinstance(closed, CloseConnection)
    assert closed.code == code


async def test_15_a_worker_that_is_killed_takes_its_conversations_along_and_no_others(lab: bootstrap.LocalLab) -> None:
    before = await lab.snapshot()
    talkers = [await Talker.meet(before.port) for _ in range(10)]
    victim = before.apps[0].workers[0]
    assert victim.pid is not None
    await until(lab, lambda now: now.totals.tunnels == 10)
    os.kill(victim.pid, signal.SIGKILL)
    await until(lab, lambda now: now.apps[0].workers[0].pid not in (None, victim.pid) and now.apps[0].workers[0].routed)
    echoed = [await survives(talker) for talker in talkers]
    assert echoed.count(True) == 5
    assert await (await Talker.meet(before.port)).echoes(TextMessage("anew"))


async def survives(talker: Talker) -> bool:
    try:
        return await talker.echoes(TextMessage("still there"))
    except (EOFError, ConnectionError, LocalProtocolError):
        talker.leave()
        return False


async def test_15_a_pool_recycles_under_fifty_conversations(lab: bootstrap.LocalLab) -> None:
    """Whoever was with the old workers is told "going away" or cut off after the drain; nobody else notices."""
    await lab.set("echo", {"timeouts.drain": "0.5"})
    before = await lab.snapshot()
    talkers = [await Talker.meet(before.port) for _ in range(50)]
    old = {worker.pid for worker in before.apps[0].workers}
    await lab.reload("echo")
    await until(lab, lambda now: any(worker.pid not in old and worker.routed for worker in now.apps[0].workers))
    newcomer = await Talker.meet(before.port)
    assert await newcomer.echoes(TextMessage("hello"))
    await until(lab, lambda now: all(worker.routed and worker.pid not in old for worker in now.apps[0].workers))
    assert not any([await survives(talker) for talker in talkers])
    talkers = [await Talker.meet(before.port) for _ in range(50)]
    assert all([await talker.echoes(TextMessage(str(place))) for place, talker in enumerate(talkers)])
    for talker in [newcomer, *talkers]:
        talker.leave()
    after = await until(lab, lambda now: [worker.in_flight for worker in now.apps[0].workers] == [0, 0])
    assert after.invariants.conserved
    assert after.totals.accepted == 101


async def test_a_worker_that_is_told_to_stop_says_so(lab: bootstrap.LocalLab) -> None:
    snapshot = await lab.snapshot()
    talkers = [await Talker.meet(snapshot.port) for _ in range(2)]
    await lab.signal("echo", "SIGTERM")
    for talker in talkers:
        assert await talker.hear() == CloseConnection(1001, "")


async def test_without_an_upgrade_the_sample_says_who_it_is(lab: bootstrap.LocalLab) -> None:
    answer = await lab.request("echo")
    assert answer.status == 200
    assert answer.pid is not None
    assert (await lab.request("echo", "/echo/else")).status == 404


async def test_an_http_client_is_not_taken_for_one_that_speaks_websocket(lab: bootstrap.LocalLab) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", (await lab.snapshot()).port)
    speech = WSConnection(ConnectionType.CLIENT)
    writer.write(speech.send(Request(host="x", target="/nowhere")))
    speech.receive_data(await asyncio.wait_for(reader.read(65536), PATIENCE))
    assert isinstance(next(speech.events()), RejectConnection)
    writer.close()
