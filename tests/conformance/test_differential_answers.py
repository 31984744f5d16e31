"""What a client gets means the same to all who read it, and the same as what the worker said: h11 and httptools judge.

The worker's words are generated, valid or bent near the edges where parsers disagree. An answer that one client takes
for another, or that ends elsewhere for it, is a response that could be split, or a half one that looks whole.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import h11
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.conftest import World
from tests.conformance.messages import answers
from tests.conformance.readers import Told, told_to_h11, told_to_httptools

OURS = b"\r\nProxy-Status: cgilab; error="
"""The gateway itself has answered."""

pytestmark = pytest.mark.timeout(300)


class Gateway:
    """A real gateway, with a worker that says what it is told to and hangs up."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self._world = World()
        self._said = b""
        self.loop.run_until_complete(self._start())

    def relay(self, method: bytes, modern: bool, said: bytes) -> tuple[bytes, bool]:
        """What a client gets when a worker has `said` this, and whether its connection ended in order."""
        return self.loop.run_until_complete(asyncio.wait_for(self._relay(method, modern, said), 60))

    def close(self) -> None:
        self.loop.run_until_complete(self._world.close())
        self.loop.close()

    async def _start(self) -> None:
        await self._world.start()
        await self._world.worker(handler=self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._said)

    async def _relay(self, method: bytes, modern: bool, said: bytes) -> tuple[bytes, bool]:
        self._said, got, ended = said, b"", False
        client = await self._world.client()
        await client.send(b"%b / HTTP/1.%d\r\nHost: x\r\nConnection: close\r\n\r\n" % (method, modern))
        with contextlib.suppress(ConnectionError):
            while piece := await client.reader.read(65536):
                got += piece
            ended = True
        client.close()
        await self._world.until(lambda: self._world.proxy.observe().connections == 0)
        assert self._world.conserved()
        assert self._world.proxy.observe().totals.in_flight == 0
        return got, ended


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
METHODS = st.sampled_from([b"GET", b"GET", b"GET", b"HEAD"])


@given(method=METHODS, modern=st.booleans(), said=answers())
@MANY
def test_10_an_answer_means_the_same_to_h11_and_httptools(
    gateway: Gateway, method: bytes, modern: bool, said: bytes
) -> None:
    got, ended = gateway.relay(method, modern, said)
    try:
        found = told_to_h11(method, got, ended)
    except h11.RemoteProtocolError:  # it says so of an answer that is broken off
        assert not ended
        assert method == b"HEAD" or told_to_httptools(got, ended)[-1].end < 0
        return
    *interims, final = found
    assert all(told.status < 200 for told in interims)
    assert modern or not interims
    assert final.end == (len(got) if ended else -1), "one answer, and nothing behind it"
    if method != b"HEAD":
        assert told_to_httptools(got, ended) == found


@given(method=METHODS, modern=st.booleans(), said=answers())
@MANY
def test_10_an_answer_says_what_the_worker_said(gateway: Gateway, method: bytes, modern: bool, said: bytes) -> None:
    got, ended = gateway.relay(method, modern, said)
    if OURS in got.partition(b"\r\n\r\n")[0] or OURS in got.rpartition(b"HTTP/1.1 ")[2]:
        return  # refused: nobody reads it
    meant = _read(method, said, True)
    if meant is None:
        return  # h11 would have refused it, for other reasons than framing
    final = _read(method, got, ended)
    whole = meant.end >= 0
    assert ended is whole, "what is broken off is seen as broken off, and nothing else"
    if whole:
        assert final is not None
        assert (final.status, final.body) == (meant.status, meant.body)


def _read(method: bytes, data: bytes, ended: bool) -> Told | None:
    """The final response in `data` as h11 reads it; one without an end if it is broken off, None if it is none."""
    try:
        found = told_to_h11(method, data, ended)
    except h11.RemoteProtocolError as error:
        torn = "peer closed connection" in str(error)
        return Told(0, b"", -1) if torn else None
    return found[-1] if found and found[-1].status >= 200 else None
