"""Point 13, its end: answers say who made them and where the time went (RFC 9209, Server-Timing, X-Request-Id)."""

import asyncio
import re
import socket

import msgspec
import pytest

from lab.core.model import Explain, RetrySpec, Timeouts
from lab.proxy import explain
from lab.proxy.problems import Problem
from tests.conformance.conftest import GET, OK

STRING = r'"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
PROXY_STATUS = re.compile(rf"cgilab(?:; [a-z][a-z-]*=(?:[a-z_]+|\d+|{STRING}))*")
"""An Item of RFC 8941 with parameters, as RFC 9209 2 has it."""


async def explaining(world, how):
    spec = msgspec.structs.replace(world.spec.settings, explain=how)
    world.spec = msgspec.structs.replace(world.spec, settings=spec)
    await world.proxy.apply(world.spec)


def fields(head, name):
    """The values of a field, in order."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return [line.partition(":")[2].strip() for line in lines if line.lower().startswith(name.lower() + ":")]


async def asked(world, request=GET):
    client = await world.client()
    await client.send(request)
    return await client.response()


async def test_13_proxy_status_of_a_refused_connection_names_the_error_and_the_next_hop(world):
    await world.start(timeouts=Timeouts(connect=0.1))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        world.route(port)
        status, head, _ = await asked(world)
    assert status == 502
    (found,) = fields(head, "Proxy-Status")
    assert PROXY_STATUS.fullmatch(found)
    assert found.startswith(f'cgilab; error=connection_refused; next-hop="127.0.0.1:{port}"; details="No connection')
    (identity,) = fields(head, "X-Request-Id")
    assert [trace.id for trace in world.proxy.traces()] == [identity]
    (timing,) = fields(head, "Server-Timing")
    assert re.fullmatch(r"total;dur=[\d.]+, queue;dur=[\d.]+, connect;dur=[\d.]+", timing)


async def test_13_proxy_status_of_each_failure_has_the_type_that_rfc_9209_gives_it(world):
    await world.start(queue_length=0)
    status, head, _ = await asked(world)
    assert (status, "error=connection_limit_reached;" in fields(head, "Proxy-Status")[0]) == (503, True)
    await world.worker(response=b"nonsense\r\n\r\n")
    status, head, _ = await asked(world)
    assert (status, "error=http_protocol_error;" in fields(head, "Proxy-Status")[0]) == (502, True)
    status, head, _ = await asked(world, b"GET / HTTP/1.1\r\n\r\n")
    assert (status, "error=http_request_error;" in fields(head, "Proxy-Status")[0]) == (400, True)
    status, head, _ = await asked(world, b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n")
    assert (status, "error=http_request_error;" in fields(head, "Proxy-Status")[0]) == (501, True)


async def test_13_by_default_a_relayed_answer_passes_as_it_is(world):
    await world.start()
    worker = await world.worker()
    _, head, _ = await asked(world)
    assert not any(fields(head, name) for name in ("X-Request-Id", "Proxy-Status", "Server-Timing"))
    assert b"X-Request-Id" not in worker.requests[0]


async def test_13_explain_off_takes_the_fields_from_problems_too(world):
    await world.start(queue_length=0)
    await explaining(world, Explain.OFF)
    status, head, _ = await asked(world)
    assert status == 503
    assert not any(fields(head, name) for name in ("X-Request-Id", "Proxy-Status", "Server-Timing"))


@pytest.mark.parametrize("chunked", [False, True])
async def test_13_explain_all_tells_client_and_worker(world, chunked):
    pieces = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    await world.start()
    worker = await world.worker(response=pieces if chunked else OK)
    await explaining(world, Explain.ALL)
    client = await world.client()
    names = []
    for _ in range(2):
        await client.send(GET)
        status, head, body = await client.response()
        assert (status, body) == (200, b"ok")
        names += fields(head, "X-Request-Id")
        (found,) = fields(head, "Proxy-Status")
        assert PROXY_STATUS.fullmatch(found)
        assert found == f'cgilab; next-hop="127.0.0.1:{worker.port}"; received-status=200'
        assert re.match(r'app;desc="app/0";dur=\d+\.\d{3}', *fields(head, "Server-Timing"))
    assert len(set(names)) == 2
    assert [fields(request, "X-Request-Id") for request in worker.requests] == [[name] for name in names]
    assert "connect;dur=" not in head.decode()
    await explaining(world, Explain.PROBLEMS)
    await client.send(GET)
    _, head, _ = await client.response()
    assert not fields(head, "X-Request-Id")
    assert b"X-Request-Id" not in worker.requests[2]


async def test_13_an_identity_that_a_client_or_a_worker_made_up_does_not_pass_for_ours(world):
    answer = OK.replace(b"Content-Length", b"x-request-id: theirs\r\nContent-Length")
    await world.start()
    worker = await world.worker(response=answer)
    await explaining(world, Explain.ALL)
    _, head, _ = await asked(world, GET.replace(b"\r\n\r\n", b"\r\nX-REQUEST-ID: forged\r\n\r\n"))
    (name,) = fields(head, "X-Request-Id")
    assert name not in ("theirs", "forged")
    assert fields(worker.requests[0], "X-Request-Id") == [name]


async def test_13_server_timing_tells_the_time_at_a_worker_that_failed_it(world):
    async def dies(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.05)

    await world.start(retries=RetrySpec(on=("reset",)))
    await explaining(world, Explain.ALL)
    await world.worker(handler=dies)
    await world.worker()
    timings = [fields((await asked(world))[1], "Server-Timing")[0] for _ in range(2)]  # one of them meets it first
    tried = [float(found[1]) for timing in timings if (found := re.search(r", tried;dur=([\d.]+)$", timing))]
    assert len(tried) == 1
    assert tried[0] >= 49


async def test_13_server_timing_tells_it_too_where_no_connection_had_to_be_made(world):
    async def dies_later(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.05)

    await world.start(retries=RetrySpec(on=("reset",)))
    await explaining(world, Explain.ALL)
    await world.worker(handler=dies_later)
    await world.worker()
    timings = [fields((await asked(world))[1], "Server-Timing")[0] for _ in range(4)]  # the first two warm both up
    assert ["connect" in timing for timing in timings] == [True, True, False, False]
    (tried,) = [float(found[1]) for timing in timings if (found := re.search(r", tried;dur=([\d.]+)$", timing))]
    assert tried >= 49


def test_13_a_worker_is_called_as_it_is_called():
    told = explain.relayed("/run/50%/a.sock", "app/0", 200) % 1.5
    assert told == (
        b'Proxy-Status: cgilab; next-hop="/run/50%/a.sock"; received-status=200\r\n'
        b'Server-Timing: app;desc="app/0";dur=1.500\r\n'
    )


@pytest.mark.parametrize("how", [Explain.PROBLEMS, Explain.ALL])
async def test_13_what_a_trusted_client_calls_a_request_is_kept(world, how):
    answer = b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n"
    await world.start()
    worker = await world.worker(response=answer)
    spec = msgspec.structs.replace(world.spec.settings, explain=how, trusted=("127.0.0.0/8",))
    await world.proxy.apply(msgspec.structs.replace(world.spec, settings=spec))
    for sent, kept in (("theirs-1", True), ("two words", False), ("x" * 200, False), ("a\x80", False)):
        field = f"\r\nX-Request-Id: {sent}\r\n\r\n".encode("latin-1")
        status, head, _ = await asked(world, GET.replace(b"\r\n\r\n", field))
        assert status == 502
        (name,) = fields(head, "X-Request-Id")
        assert (name == sent) is kept
        assert world.proxy.traces()[0].id == name
        if how is Explain.ALL or kept:
            assert fields(worker.requests[-1], "X-Request-Id") == [name]


async def test_13_fastcgi_workers_are_told_the_identity_as_a_variable(world, tmp_path):
    await world.start()
    worker = await world.fastcgi(tmp_path / "socket")
    await explaining(world, Explain.ALL)
    _, head, _ = await asked(world, GET.replace(b"\r\n\r\n", b"\r\nX-Request-Id: forged\r\n\r\n"))
    assert [worker.requests[0][b"HTTP_X_REQUEST_ID"].decode()] == fields(head, "X-Request-Id")


@pytest.mark.parametrize("detail", ['a "quoted\\ word', "line\r\nSet-Cookie: x", "caf\u00e9", "x" * 1000])
def test_13_proxy_status_is_a_structured_field_whatever_the_details_are(detail):
    line = Problem(502, detail).proxy_status('unix:/a"b').decode("ascii")
    name, _, value = line.removesuffix("\r\n").partition(": ")
    assert name == "Proxy-Status"
    assert PROXY_STATUS.fullmatch(value)
    assert len(explain.quoted(detail)) < 300
