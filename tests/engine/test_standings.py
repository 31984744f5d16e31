"""The balancer's view and the kernel's, where they agree and where they do not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from lab import bootstrap
from lab.core.model import AppSpec, ListenerSpec, Liveness, PoolSettings
from lab.core.standing import Actual, Believed, Standing, differences
from lab.core.states import EndpointHealth
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab
from lab.engine.standings import lines

WELL = Believed(routed=True, in_flight=0, places=1, answered=9, failed=0, weight=1.0, health=EndpointHealth.HEALTHY)
IDLE = Actual(process="sleeping", established=1, waiting=0, room=8)
BLOCKS = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=8)
while True:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
"""


def differ(believed: Believed = WELL, actual: Actual = IDLE, *, shared: bool = False) -> tuple[str, ...]:
    return differences(believed, actual, shared=shared)


def test_two_that_agree_differ_in_nothing() -> None:
    assert differ() == ()
    assert differ(actual=Actual(process=None, established=None, waiting=None, room=None)) == ()


@pytest.mark.parametrize("process", ["stopped", "traced", "zombie", "gone"])
def test_a_process_that_cannot_answer_is_told_while_the_balancer_would_choose_it(process: str) -> None:
    unable = msgspec.structs.replace(IDLE, process=process)
    assert differ(actual=unable) == (f"The balancer would choose it, but its process is {process}.",)
    for aware in ({"routed": False}, {"health": EndpointHealth.EJECTED}):
        assert differ(msgspec.structs.replace(WELL, **aware), unable) == ()


def test_connections_that_nobody_has_accepted_are_told() -> None:
    waits = msgspec.structs.replace(IDLE, waiting=3)
    assert differ(actual=waits) == ("3 connections wait in its accept queue until its process takes them up.",)
    full = differ(actual=msgspec.structs.replace(IDLE, waiting=9))
    assert full[1] == "That queue is full (8): the kernel drops who connects now, and has them try again."


def test_requests_in_flight_on_connections_that_are_gone_are_told_but_not_where_many_share_a_socket() -> None:
    busy = msgspec.structs.replace(WELL, in_flight=2)
    assert differ(busy) == ("The balancer counts 2 in flight, but only 1 connection is open.",)
    gone = msgspec.structs.replace(IDLE, established=0)
    assert differ(busy, gone) == ("The balancer counts 2 in flight, but no connection is open.",)
    assert differ(busy, shared=True) == ()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[LocalLab]:
    """One worker that serves one connection at a time, and is asked how it is so seldom that nobody notices."""
    source = tmp_path / "blocks.py"
    source.write_text(BLOCKS)
    app = AppSpec(
        name="app",
        route="/",
        language="python",
        source=str(source),
        concurrency=4,
        pool=PoolSettings(max_workers=1, start_timeout=20),
        liveness=Liveness(interval=3600),
    )
    spec = LabSpec(name="standings", listener=ListenerSpec(port=0), apps=(app,), own_rate=0)
    local = bootstrap.local_lab(spec, control=None)
    await asyncio.to_thread(local.start)
    try:
        yield local
    finally:
        await local.close()


async def until(lab: LocalLab, holds: Callable[[Standing], bool]) -> Standing:
    async with asyncio.timeout(40):
        while True:
            found = await lab.standings("app")
            if found and holds(found[0]):
                return found[0]
            await asyncio.sleep(0.01)  # facts of the kernel are told by no event


async def test_a_frozen_worker_is_believed_in_while_requests_pile_up_in_its_accept_queue(lab: LocalLab) -> None:
    # Its start probe has gone, and the snapshot is new enough to know its places.
    await until(lab, lambda one: (one.believed.places, one.actual.room, one.differences) == (4, 8, ()))
    await lab.signal("app", "SIGSTOP")
    await until(lab, lambda one: one.actual.process == "stopped")  # until then it may still accept one
    asking = [asyncio.ensure_future(lab.request("app")) for _ in range(3)]
    # What is believed is as old as the snapshot, what the kernel knows is new.
    stuck = await until(lab, lambda one: (one.believed.in_flight, one.actual.waiting) == (3, 3))
    assert (stuck.actual.process, stuck.actual.established) == ("stopped", 0)
    assert stuck.differences == (
        "The balancer would choose it, but its process is stopped.",
        "3 connections wait in its accept queue until its process takes them up.",
    )
    text = lines([stuck])
    assert "THE KERNEL KNOWS" in text[0]
    assert text[2].split() == [
        "app/0",
        str(stuck.pid),
        "healthy",
        "3",
        "of",
        "4",
        "1",
        "-",
        "stopped",
        "0",
        "3",
        "of",
        "8",
    ]
    assert text[3] == f"  ! {stuck.differences[0]}"
    await lab.signal("app", "SIGCONT")
    assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 3
    await until(lab, lambda one: not one.differences and one.believed.in_flight == 0)


def test_a_lab_without_workers_says_so() -> None:
    assert lines([]) == ["No endpoint: no worker runs."]
