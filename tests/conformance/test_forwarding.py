"""Rules 12, 13 and 16 where they depend on settings or on where the gateway stands; the rest of them are tables."""

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from lab.proxy.backends.python_builtin.forwarding import NO_CLAIMS, Introduction, Trust, claims_of, in_a_loop

OURS = rb"for=127\.0\.0\.1;host=x;proto=http"


async def trusting(world, *networks):
    """A gateway that trusts whoever comes from these networks."""
    await world.start()
    await believe(world, *networks)
    return await world.worker()


async def believe(world, *networks):
    await world.proxy.apply(replace(world.spec, settings=replace(world.spec.settings, trusted=networks)))


async def seen(world, worker, *fields, client=None):
    """The head that a worker gets of a request with these fields, by name in small letters."""
    client = client or await world.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(line + b"\r\n" for line in fields) + b"\r\n")
    assert (await client.response())[0] == 200
    lines = worker.requests[-1].split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines)}


CLAIMED = (
    b"X-Forwarded-For: 6.6.6.6",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: shop",
    b"Forwarded: for=6.6.6.6",
)


async def test_13_the_gateway_says_who_asked_and_how(world):
    await world.start()
    head = await seen(world, await world.worker())
    assert re.fullmatch(OURS, head[b"forwarded"])
    assert head[b"x-forwarded-for"] == b"127.0.0.1"


async def test_13_what_a_stranger_claims_is_dropped(world):
    worker = await trusting(world, "10.0.0.0/8")
    head = await seen(world, worker, *CLAIMED)
    assert re.fullmatch(OURS, head[b"forwarded"])
    assert head[b"x-forwarded-for"] == b"127.0.0.1"
    assert (head[b"x-forwarded-proto"], head[b"x-forwarded-host"]) == (b"http", b"x")


async def test_13_what_a_trusted_proxy_claims_is_passed_on_and_added_to(world):
    worker = await trusting(world, "10.0.0.0/8", "127.0.0.1")
    head = await seen(world, worker, *CLAIMED)
    assert head[b"x-forwarded-for"] == b"6.6.6.6, 127.0.0.1"
    assert (head[b"x-forwarded-proto"], head[b"x-forwarded-host"]) == (b"https", b"shop")
    assert re.fullmatch(rb"for=6\.6\.6\.6, " + OURS, head[b"forwarded"])


async def test_13_trust_holds_from_the_next_request_on_and_so_does_its_end(world):
    worker = await trusting(world)
    client = await world.client()  # which asks the same, byte for byte
    for networks, addresses in (((), b"127.0.0.1"), (("127.0.0.0/8",), b"6.6.6.6, 127.0.0.1"), ((), b"127.0.0.1")):
        await believe(world, *networks)
        assert (await seen(world, worker, *CLAIMED, client=client))[b"x-forwarded-for"] == addresses


async def test_13_a_claim_that_is_not_well_formed_is_not_passed_on(world):
    worker = await trusting(world, "127.0.0.1")
    head = await seen(world, worker, b"X-Forwarded-Proto: gopher", b"X-Forwarded-Host: a b")
    assert (head[b"x-forwarded-proto"], head[b"x-forwarded-host"]) == (b"http", b"x")


@pytest.mark.parametrize(
    ("claimed", "client"),
    [
        (b"X-Forwarded-For: 6.6.6.6", "6.6.6.6"),
        (b"X-Forwarded-For: 9.9.9.9, 6.6.6.6, 10.1.1.1", "6.6.6.6"),
        (b"X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 6.6.6.6", "6.6.6.6"),
        (b"X-Forwarded-For: 10.0.0.1, 10.1.1.1", "10.0.0.1"),
        (b"X-Forwarded-For: 6.6.6.6:4711, 10.1.1.1", "6.6.6.6"),
        (b"X-Forwarded-For: [2001:db8::1]:4711", "2001:db8::1"),
        (b"X-Forwarded-For: unknown, 10.1.1.1", "10.1.1.1"),
        (b"X-Forwarded-For: 6.6.6.6, rubbish", "127.0.0.1"),
        (b"X-Forwarded-For:", "127.0.0.1"),
        (b'Forwarded: for=9.9.9.9;proto=http, FOR="[2001:db8::1]:80"', "2001:db8::1"),
        (b"Forwarded: by=1.2.3.4;for=6.6.6.6, for=10.2.3.4", "6.6.6.6"),
        (b"Forwarded: for=_hidden", "127.0.0.1"),
        (b"A: b", "127.0.0.1"),
    ],
)
def test_13_the_client_is_the_first_address_from_the_right_that_is_not_trusted(claimed, client):
    claims = claims_of(b"GET / HTTP/1.1\r\n" + claimed + b"\r\n\r\n")
    assert Trust(("127.0.0.1", "10.0.0.0/8")).client("127.0.0.1", claims) == client


async def test_13_a_program_is_told_the_client_whom_a_trusted_proxy_speaks_for(world, tmp_path: Path):
    await world.start(script="/srv/app")
    worker = await world.fastcgi(tmp_path / "socket")
    client = await world.client()
    for networks, address in (((), b"127.0.0.1"), (("127.0.0.1",), b"6.6.6.6")):
        await believe(world, *networks)
        await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
        assert (await client.response())[0] == 200
        assert worker.requests[-1][b"REMOTE_ADDR"] == address
        assert (b"REMOTE_PORT" in worker.requests[-1]) is not bool(networks)


def test_13_an_ipv6_address_and_a_host_with_a_port_are_quoted_in_forwarded():
    fields = Introduction(b"x:8080", True, False, NO_CLAIMS).fields("2001:db8::1", b"https", b"lab:1", b"cgilab-1")
    assert b'\r\nForwarded: for="[2001:db8::1]";host="x:8080";proto=https\r\n' in fields
    assert b"\r\nX-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: https\r\n" in fields


async def test_13_a_request_that_comes_back_is_stopped(world):
    await world.start()
    worker = await world.worker()
    await seen(world, worker)
    via = next(line for line in worker.requests[0].split(b"\r\n") if line.startswith(b"Via:"))
    client = await world.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + via + b"\r\n\r\n")
    status, _, body = await client.response()
    assert status == 508
    assert b"circle" in body
    assert world.proxy.observe().totals.failed == 1
    assert len(worker.requests) == 1
    assert await client.is_open()


@pytest.mark.parametrize(
    ("lines", "loops"),
    [
        (b"\r\nVia: 1.1 cgilab-12\r\n", True),
        (b"\r\nvia: 1.0 front, 1.1 cgilab-12 (comment), 1.1 behind\r\n", True),
        (b"\r\nVia: 1.1 cgilab-12,1.1 behind\r\n", True),
        (b"\r\nVia: 1.1 cgilab-123\r\n", False),
        (b"\r\nVia: 1.1 my-cgilab-12\r\n", False),
        (b"\r\nCookie: 1.1 cgilab-12\r\n", False),
    ],
)
def test_13_only_its_own_name_in_via_makes_a_circle(lines, loops):
    assert in_a_loop(b"GET / HTTP/1.1" + lines, b"cgilab-12") is loops


async def test_12_of_te_only_trailers_is_passed_on(world):
    await world.start()
    worker = await world.worker()
    head = await seen(world, worker, b"TE: gzip;q=0.5, trailers", b"Connection: TE")
    assert (head[b"te"], head[b"connection"]) == (b"trailers", b"TE")
    assert b"te" not in await seen(world, worker, b"TE: gzip, x-trailers", b"Connection: TE")


async def test_12_te_is_no_variable_of_a_program(world, tmp_path: Path):
    await world.start(script="/srv/app")
    worker = await world.fastcgi(tmp_path / "socket")
    client = await world.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n")
    assert (await client.response())[0] == 200
    assert not {b"HTTP_TE", b"HTTP_CONNECTION"} & worker.requests[0].keys()


async def test_16_trace_that_may_go_no_further_shows_what_came_and_no_secrets(world):
    await world.start()
    worker = await world.worker()
    client = await world.client()
    secrets = b"Cookie: a=b\r\nAuthorization: Basic eA==\r\nProxy-Authorization: c\r\n"
    await client.send(b"TRACE /p HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n" + secrets + b"X-A: 1\r\n\r\n")
    status, head, body = await client.response()
    assert status == 200
    assert b"\r\nContent-Type: message/http\r\n" in head
    assert body == b"TRACE /p HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\nX-A: 1\r\n\r\n"
    assert worker.requests == []
    assert await client.is_open()


async def test_16_options_that_may_go_no_further_is_answered_here(world):
    await world.start()
    worker = await world.worker()
    client = await world.client()
    await client.send(b"OPTIONS /p HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n\r\n")
    status, head, _ = await client.response()
    assert status == 204
    assert b"\r\nAllow: GET" in head
    assert worker.requests == []
    assert world.proxy.observe().totals.answered == 1


@pytest.mark.parametrize("method", [b"TRACE", b"OPTIONS"])
async def test_16_what_may_go_further_has_one_hop_less(world, method):
    await world.start()
    worker = await world.worker()
    client = await world.client()
    for hops in (b"10", b"1"):
        await client.send(method + b" / HTTP/1.1\r\nHost: x\r\nmax-forwards:  %b \r\nA: b\r\n\r\n" % hops)
        assert (await client.response())[0] == 200
    assert [re.findall(rb"(?i)max-forwards:[^\r]*", one) for one in worker.requests] == [
        [b"Max-Forwards: 9"],
        [b"Max-Forwards: 0"],
    ]
    await client.send(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await client.response())[0] == 200
    assert b"Max-Forwards" not in worker.requests[-1]


async def test_16_other_methods_do_not_count_hops(world):
    await world.start()
    worker = await world.worker()
    assert (await seen(world, worker, b"Max-Forwards: 0"))[b"max-forwards"] == b"0"


@pytest.mark.parametrize(
    "fields", [b"Max-Forwards: -1", b"Max-Forwards: x", b"Max-Forwards:", b"Max-Forwards: 1\r\nMax-Forwards: 1"]
)
async def test_16_hops_that_cannot_be_counted_are_refused(world, fields):
    await world.start()
    worker = await world.worker()
    client = await world.client()
    await client.send(b"TRACE / HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n\r\n")
    assert (await client.response())[0] == 400
    assert worker.requests == []


async def test_16_trace_has_no_body(world):
    await world.start()
    await world.worker()
    client = await world.client()
    await client.send(b"TRACE / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na")
    assert (await client.response())[0] == 400
