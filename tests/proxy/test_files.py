"""Files that the proxy itself serves, asked for over real connections."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from lab.core.clock import SystemClock
from lab.core.events import EventRing
from lab.core.model import Explain, ListenerSpec, ProxySettings, SiteSpec, Timeouts
from lab.proxy.backends.python_builtin import PythonBuiltinProxy
from lab.proxy.manager import ProxySpec, UpstreamSpec

LONG = os.urandom(1024) * 8192
"""Eight MiB: many pieces."""


class Served:
    """A proxy in front of a folder, and a client."""

    def __init__(self, proxy: PythonBuiltinProxy, client: httpx.AsyncClient, root: Path, port: int) -> None:
        self.proxy = proxy
        self.client = client
        self.root = root
        self.port = port

    async def ended(self) -> None:
        """Wait until no request is in flight."""
        async with asyncio.timeout(30):
            while self.proxy.observe().totals.in_flight:
                await asyncio.sleep(0.005)

    def open_files(self) -> set[str]:
        """Files of the site that this process has open."""
        links = list(Path("/proc/self/fd").iterdir())
        return {str(link.readlink()) for link in links if link.is_symlink() and self.root in link.readlink().parents}


def spec(root: Path, **timeouts: float) -> ProxySpec:
    site, program = SiteSpec(root=str(root)), str(root / "program.py")
    upstream = UpstreamSpec(app="site", route="/site", site=site, script=program, timeouts=Timeouts(**timeouts))
    return ProxySpec(listener=ListenerSpec(port=0), upstreams=(upstream,))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    root = tmp_path.resolve()
    (root / "a.txt").write_bytes(b"hello")
    (root / "empty.txt").write_bytes(b"")
    (root / "long.bin").write_bytes(LONG)
    (root / "docs").mkdir()
    (root / "docs/index.html").write_bytes(b"<p>docs</p>")
    clock = SystemClock()
    proxy = PythonBuiltinProxy(clock, EventRing(clock))
    url = await proxy.start(spec(root))
    async with httpx.AsyncClient(base_url=f"{url}/site") as client:
        yield Served(proxy, client, root, int(url.rpartition(":")[2]))
    await proxy.close()


async def test_a_file_is_answered_without_any_worker(served: Served) -> None:
    answer = await served.client.get("/a.txt")
    assert (answer.status_code, answer.content) == (200, b"hello")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_a_long_file_tells_how_long_the_disk_took(served: Served) -> None:
    await served.proxy.apply(msgspec.structs.replace(spec(served.root), settings=ProxySettings(explain=Explain.ALL)))
    answer = await served.client.get("/long.bin")
    taken = re.fullmatch(r'app;desc="the disk";dur=([\d.]+)', answer.headers["server-timing"])
    assert taken is not None
    assert float(taken[1]) < 60_000


async def test_an_empty_file_is_an_answer(served: Served) -> None:
    answer = await served.client.get("/empty.txt")
    assert (answer.status_code, answer.headers["content-length"]) == (200, "0")


async def test_a_long_file_comes_whole_and_the_connection_stays(served: Served) -> None:
    for _ in range(2):
        answer = await served.client.get("/long.bin")
        assert answer.content == LONG
    assert served.proxy.observe().connections == 1
    assert not served.open_files()


async def test_a_range_in_the_middle_of_a_long_file_comes_exactly(served: Served) -> None:
    answer = await served.client.get("/long.bin", headers={"Range": "bytes=1000-1000999"})
    assert (answer.status_code, answer.content) == (206, LONG[1000:1_001_000])


async def test_a_client_that_has_the_file_is_told_so(served: Served) -> None:
    first = await served.client.get("/a.txt")
    again = await served.client.get("/a.txt", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    (served.root / "a.txt").write_bytes(b"changed")
    after = await served.client.get("/a.txt", headers={"If-None-Match": first.headers["etag"]})
    assert (after.status_code, after.content) == (200, b"changed")


async def test_head_is_answered_with_the_head_alone(served: Served) -> None:
    for name in ("/a.txt", "/long.bin"):
        answer = await served.client.head(name)
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) == (served.root / name[1:]).stat().st_size
    assert not served.open_files()


async def test_a_file_takes_no_other_method(served: Served) -> None:
    answer = await served.client.post("/a.txt", content=b"x" * 200_000)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_a_folder_is_redirected_with_its_query(served: Served) -> None:
    answer = await served.client.get("/docs?a=1")
    assert (answer.status_code, answer.headers["location"]) == (301, "/site/docs/?a=1")
    assert (await served.client.get(answer.headers["location"].removeprefix("/site"))).content == b"<p>docs</p>"


async def test_what_is_missing_or_refused_is_said(served: Served) -> None:
    for path, status in (("/none", 404), ("/.hidden", 403), ("/a%00", 400), ("/../x", 404)):
        answer = await served.client.get(path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json" or path == "/../x"


async def test_the_apps_own_program_is_not_shown_whatever_its_suffix(served: Served) -> None:
    (served.root / "program.py").write_bytes(b"PASSWORD = 'secret'")
    (served.root / "link.txt").symlink_to(served.root / "program.py")
    for path in ("/program.py", "/link.txt", "/docs/../program.py"):
        assert (await served.client.get(path)).status_code == 403


async def test_each_request_is_counted_once_and_for_its_app(served: Served) -> None:
    for path in ("/a.txt", "/long.bin", "/none", "/docs"):
        await served.client.get(path)
    await served.ended()
    view = served.proxy.observe()
    assert (view.totals.accepted, view.totals.answered) == (4, 4)
    assert view.upstreams[0].accepted == 4
    assert served.proxy.latencies("site").total == 4


async def test_a_client_that_leaves_in_the_middle_costs_no_open_file(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
    writer.write(b"GET /site/long.bin HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(1000)
    assert served.open_files()
    writer.transport.abort()
    await served.ended()
    async with asyncio.timeout(30):
        while served.open_files():
            await asyncio.sleep(0.005)
    assert served.proxy.observe().totals.abandoned == 1


async def test_clients_that_leave_before_the_disk_has_answered_are_counted_once(served: Served) -> None:
    for path in (b"a.txt", b"long.bin", b"none", b"docs") * 50:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /site/%b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        await asyncio.sleep(0)
        writer.transport.abort()
    await served.client.get("/a.txt")
    await served.ended()
    totals = served.proxy.observe().totals
    assert totals.accepted == totals.answered + totals.abandoned
    assert totals.abandoned > 0
    async with asyncio.timeout(30):  # a thread may still be opening one for a client that has gone
        while served.open_files():
            await asyncio.sleep(0.005)


async def test_a_client_that_takes_nothing_is_waited_for_in_bounded_memory_and_then_given_up(served: Served) -> None:
    (served.root / "huge.bin").write_bytes(b"")
    os.truncate(served.root / "huge.bin", 4 << 30)
    await served.proxy.apply(spec(served.root, response_idle=1.0))
    _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
    writer.transport.pause_reading()
    before = _resident()
    writer.write(b"GET /site/huge.bin HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(20):
        while not served.proxy.observe().totals.in_flight:
            await asyncio.sleep(0.005)
        while served.proxy.observe().totals.in_flight:
            assert _resident() - before < 32 << 20
            await asyncio.sleep(0.02)
    assert not served.open_files()
    writer.transport.abort()


async def test_a_file_that_is_cut_while_it_is_sent_breaks_the_answer_off(served: Served) -> None:
    path = served.root / "long.bin"
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
    writer.write(b"GET /site/long.bin HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readexactly(1000)
    path.write_bytes(LONG[:1000])
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(15):  # sooner than a silent answer is given up
            while await reader.read(65536):
                pass
    await served.ended()
    assert served.proxy.observe().totals.failed == 1
    assert not served.open_files()


async def test_requests_sent_at_once_are_answered_in_their_order(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1 << 24)
    ask = b"GET /site/%b HTTP/1.1\r\nHost: x\r\n%b\r\n"
    writer.write(ask % (b"long.bin", b"") + ask % (b"a.txt", b"") + ask % (b"none", b"Connection: close\r\n"))
    received = await asyncio.wait_for(reader.read(), 20)
    statuses = [int(piece[:3]) for piece in received.replace(LONG, b"").split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 200, 404]
    assert LONG in received


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
