"""Request framing, rules 1 to 9 and 12 to 14: bytes in, and what becomes of them at the client and at the worker."""

import random
from dataclasses import dataclass

import pytest

from lab.core.model import Limits


@dataclass(frozen=True)
class Refused:
    """A request that must be answered by the gateway, with the connection closed, and never reach a worker."""

    rule: str
    raw: bytes
    status: int = 400


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"".join((b"POST / HTTP/1.1\r\nHost: x\r\n", *(line + b"\r\n" for line in fields), b"\r\n", body))


def get(*fields: bytes) -> bytes:
    return b"".join((b"GET / HTTP/1.1\r\nHost: x\r\n", *(line + b"\r\n" for line in fields), b"\r\n"))


CHUNKED = b"Transfer-Encoding: chunked"

REFUSED = [
    Refused("1 length and coding", post(b"Content-Length: 3", CHUNKED, body=b"0\r\n\r\n")),
    Refused("1 coding and length", post(CHUNKED, b"Content-Length: 3", body=b"0\r\n\r\n")),
    Refused("2 two empty lines", b"\r\n\r\n" + get()),
    Refused("2 connect", b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", 501),
    Refused("2 different lengths", post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd")),
    Refused("2 equal lengths", post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc")),
    Refused("2 list of lengths", post(b"Content-Length: 3, 3", body=b"abc")),
    *(
        Refused(f"2 length {value!r}", post(b"Content-Length: " + value, body=b"abc"))
        for value in (b"+3", b"-3", b"0x3", b"3_0", b"3 3", b"", b"9223372036854775808", b"9" * 30, b"3.0", b"\xb2")
    ),
    Refused("3 last is not chunked", post(b"Transfer-Encoding: chunked, gzip")),
    Refused("3 unknown alone", post(b"Transfer-Encoding: identity")),
    Refused("3 empty", post(b"Transfer-Encoding: ")),
    Refused("3 look-alike", post(b"Transfer-Encoding: xchunked")),
    Refused("3 with a parameter", post(b"Transfer-Encoding: chunked;q=1")),
    Refused("3 vertical tab", post(b"Transfer-Encoding:\x0bchunked")),
    Refused("3 chunked twice in a list", post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n")),
    Refused("3 chunked twice in fields", post(CHUNKED, CHUNKED, body=b"0\r\n\r\n")),
    Refused("3 known before chunked", post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    Refused("3 in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    *(
        Refused(f"3 chunk size {size!r}", post(CHUNKED, body=size + b"\r\nabc\r\n0\r\n\r\n"))
        for size in (b"0x3", b"+3", b"3_0", b" 3", b"3 ", b"-3", b"", b"g", b"f" * 16, b"3;a\x00b")
    ),
    Refused("4 bare CR in the request line", b"GET /\r HTTP/1.1\r\nHost: x\r\n\r\n"),
    Refused("4 bare CR in a field", get(b"A: b\rc")),
    Refused("4 bare LF after the request line", b"GET / HTTP/1.1\nHost: x\r\n\r\n"),
    Refused("4 bare LF everywhere", b"GET / HTTP/1.1\nHost: x\n\n"),
    Refused("4 bare LF after a field", b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n"),
    Refused("4 bare LF after a chunk size", post(CHUNKED, body=b"3\nabc\r\n0\r\n\r\n")),
    Refused("4 bare LF after a chunk", post(CHUNKED, body=b"3\r\nabc\n0\r\n\r\n")),
    Refused("4 bare CR after a chunk size", post(CHUNKED, body=b"3\rXabc\r\n0\r\n\r\n")),
    Refused("4 bare LF in trailers", post(CHUNKED, body=b"0\r\nA: b\n\r\n")),
    Refused("4 chunk longer than its size", post(CHUNKED, body=b"3\r\nabcd\r\n0\r\n\r\n")),
    Refused("4 space before the first field", b"GET / HTTP/1.1\r\n Host: x\r\n\r\n"),
    Refused("4 space before the colon", get(b"A : b")),
    Refused("4 obs-fold", get(b"A: b", b" c")),
    Refused("4 obs-fold with tab", get(b"A: b", b"\tc")),
    Refused("4 field without colon", get(b"A")),
    Refused("4 field without name", get(b": b")),
    Refused("5 no host", b"GET / HTTP/1.1\r\n\r\n"),
    Refused("5 host twice", get(b"Host: x")),
    *(
        Refused(f"5 host {host!r}", b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        for host in (b"", b"a b", b"a,b", b"a/b", b"user@a", b"a:b", b"[::1", b"a:123456", b"\xe9")
    ),
    Refused("5 absolute form with user", b"GET http://u@x/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    Refused("6 NUL in a value", get(b"A: b\x00c")),
    Refused("6 control character in a value", get(b"A: b\x01c")),
    Refused("6 byte outside tchar in a name", get(b"A(b): c")),
    Refused("6 high byte in a name", get(b"\xc3\xa4: c")),
    Refused("6 bad method", b"GE(T / HTTP/1.1\r\nHost: x\r\n\r\n"),
    Refused("6 no target", b"GET HTTP/1.1\r\nHost: x\r\n\r\n"),
    Refused("6 space in the target", b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n"),
    Refused("6 fragment in the target", b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"),
    Refused("6 target without slash", b"GET a HTTP/1.1\r\nHost: x\r\n\r\n"),
    Refused("6 asterisk for GET", b"GET * HTTP/1.1\r\nHost: x\r\n\r\n"),
    Refused("6 two spaces", b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n"),
    Refused("6 HTTP/0.9", b"GET /\r\n"),
    Refused("6 lower-case protocol", b"GET / http/1.1\r\nHost: x\r\n\r\n"),
    Refused("6 HTTP/1.2", b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
    Refused("6 HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    Refused("6 TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),
    Refused("7 long request line", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    Refused("7 endless request line", b"GET /" + b"a" * 9000, 414),
    Refused("7 long head", get(*(b"A%d: " % n + b"b" * 8000 for n in range(9))), 431),
    Refused("7 endless head", get(*(b"A%d: " % n + b"b" * 8000 for n in range(9)))[:-2], 431),
    Refused("7 many fields", get(*(b"A: b" for _ in range(100))), 431),
    Refused("7 long body", post(b"Content-Length: 1001"), 413),
    Refused("9 long chunk extension", post(CHUNKED, body=b"3;" + b"a" * 2000 + b"\r\nabc\r\n0\r\n\r\n")),
    *(
        Refused(f"12 connection names {name!r}", get(b"Connection: close, " + name))
        for name in (b"Host", b"content-length", b"Transfer-Encoding", b"X-Forwarded-For", b"Forwarded")
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.rule)
async def test_is_refused_with_its_status_closes_and_never_reaches_a_worker(world, case):
    await world.start(limits=Limits(body=1000))
    worker = await world.worker()
    client = await world.client()
    await client.send(case.raw)
    status, head, body = await client.response()
    assert status == case.status, body
    assert b"application/problem+json" in head
    assert not await client.is_open()
    assert worker.requests == []
    totals = world.proxy.observe().totals
    assert (totals.accepted, totals.in_flight) == (1, 0)
    assert (totals.answered, totals.failed) == ((0, 1) if status >= 500 else (1, 0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", REFUSED[::6], ids=lambda case: case.rule)
async def test_is_refused_however_it_is_cut_into_segments(world, case, seed):
    await world.start(limits=Limits(body=1000))
    worker = await world.worker()
    client = await world.client()
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(len(case.raw) + 1), min(6, len(case.raw))))
    await client.send(*(case.raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(case.raw)], strict=True)))
    assert (await client.response())[0] == case.status
    assert worker.requests == []


@dataclass(frozen=True)
class Passed:
    """A request that must reach the worker, and what the worker must see of it."""

    rule: str
    raw: bytes
    seen: tuple[bytes, ...] = ()
    unseen: tuple[bytes, ...] = ()
    ends: bytes = b""
    stays_open: bool = True


PASSED = [
    Passed("2 one empty line before", b"\r\n" + get(), seen=(b"GET / HTTP/1.1\r\nHost: x\r\n",)),
    Passed(
        "5 absolute form replaces host",
        b"GET http://y:81/p?q HTTP/1.1\r\nHost: x\r\n\r\n",
        seen=(b"GET /p?q HTTP/1.1\r\n", b"Host: y:81\r\n", b"X-Forwarded-Host: y:81\r\n"),
        unseen=(b"Host: x",),
    ),
    Passed("5 absolute form without path", b"GET http://y?q HTTP/1.1\r\nHost: x\r\n\r\n", seen=(b"GET /?q HTTP/1.1",)),
    Passed(
        "5 no host in HTTP/1.0",
        b"GET / HTTP/1.0\r\n\r\n",
        seen=(b"GET / HTTP/1.1\r\n", b"\r\nHost: 127.0.0.1:"),
        stays_open=False,
    ),
    Passed("8 body by count", post(b"Content-Length: 5", body=b"hello"), ends=b"\r\n\r\nhello"),
    Passed("8 nothing after close", get(b"Connection: close"), unseen=(b"Connection",), stays_open=False),
    Passed("8 HTTP/1.0 that stays", b"GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"),
    Passed(
        "9 re-chunked, extension dropped",
        post(CHUNKED, body=b"2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        seen=(CHUNKED,),
        ends=b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    Passed(
        "9 trailers stay trailers",
        post(CHUNKED, body=b"1\r\nx\r\n0\r\nDigest: y\r\nHost: evil\r\n\r\n"),
        ends=b"1\r\nx\r\n0\r\nDigest: y\r\n\r\n",
        unseen=(b"evil",),
    ),
    Passed(
        "12 hop-by-hop fields",
        get(b"Keep-Alive: 5", b"Proxy-Connection: a", b"TE: gzip", b"Upgrade: h2c", b"Proxy: e"),
        unseen=(b"Keep-Alive", b"Proxy-Connection", b"TE:", b"Upgrade", b"Proxy:"),
    ),
    Passed(
        "12 fields named in Connection",
        get(b"Connection: x-a, X-B", b"X-A: 1", b"x-b: 2", b"X-C: 3"),
        seen=(b"X-C: 3\r\n",),
        unseen=(b"X-A", b"x-b", b"Connection"),
    ),
    Passed("12 order of same-name fields", get(b"X: 1", b"Y: 2", b"X: 3"), seen=(b"X: 1\r\nY: 2\r\nX: 3\r\n",)),
    Passed("13 via is added", get(b"Via: 1.1 before"), seen=(b"Via: 1.1 before\r\n", b"Via: 1.1 cgilab\r\n")),
    Passed(
        "13 forwarding fields are ours",
        get(b"X-Forwarded-For: 6.6.6.6", b"Forwarded: for=6.6.6.6", b"X-Forwarded-Port: 6"),
        seen=(b"X-Forwarded-For: 127.0.0.1\r\n", b"X-Forwarded-Proto: http\r\n"),
        unseen=(b"6.6.6.6", b"Port"),
    ),
]


@pytest.mark.parametrize("case", PASSED, ids=lambda case: case.rule)
@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_reaches_the_worker_as_it_should(world, case, seed):
    await world.start()
    worker = await world.worker()
    client = await world.client()
    cuts = [] if seed is None else sorted(random.Random(seed).sample(range(len(case.raw)), 5))
    await client.send(*(case.raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(case.raw)], strict=True)))
    assert (await client.response())[0] == 200
    (request,) = worker.requests
    head = request.partition(b"\r\n\r\n")[0] + b"\r\n"
    for part in case.seen:
        assert part in head
    for part in case.unseen:
        assert part not in request
    if seed is None:
        assert request.endswith(case.ends)
    assert await client.is_open() is case.stays_open


async def test_2_options_asterisk_is_answered_by_the_gateway(world):
    await world.start()
    worker = await world.worker()
    client = await world.client()
    await client.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
    status, head, _ = await client.response()
    assert status == 204
    assert b"\r\nAllow: GET" in head
    assert head.count(b"\r\nVia: ") == 1
    assert worker.requests == []
    assert await client.is_open()


async def test_7_chunked_body_over_the_limit_is_413(world):
    await world.start(limits=Limits(body=10))
    await world.worker()
    client = await world.client()
    await client.send(post(CHUNKED), b"8\r\n12345678\r\n", b"8\r\n12345678\r\n")
    assert (await client.response())[0] == 413
    assert await client.ended() is None


async def test_8_pipelined_responses_come_in_order_and_nothing_follows_close(world):
    await world.start()
    worker = await world.worker()
    client = await world.client()
    paths = [b"/%d" % n for n in range(20)]
    requests = [b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths]
    last = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    await client.send(b"".join([*requests, last, b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n"]))
    for _ in range(21):
        assert (await client.response())[0] == 200
    assert await client.ended() is None
    assert [request.split(b" ")[1] for request in worker.requests] == [*paths, b"/last"]


async def test_8_a_pipelined_problem_does_not_overtake(world):
    await world.start()
    await world.worker()
    client = await world.client()
    await client.send(get() + b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n" + b"BAD\r\n\r\n")
    assert [(await client.response())[0] for _ in range(3)] == [200, 204, 400]


async def test_14_expect_is_forwarded_and_100_is_relayed(world):
    async def handler(reader, writer):
        assert b"Expect: 100-continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(5)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)

    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(post(b"Content-Length: 5", b"Expect: 100-continue"))
    assert (await client.response())[0] == 100
    await client.send(b"hello")
    assert (await client.response())[2] == b"hello"


async def test_14_http_1_0_sees_no_interim_response(world):
    await world.start()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    worker = await world.worker(hints + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    client = await world.client()
    await client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n")
    assert (await client.response())[0] == 200
    assert b"Expect" not in worker.requests[0]


async def test_14_an_early_response_is_relayed_and_the_rest_of_the_upload_drained(world):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        await reader.read()

    await world.start()
    await world.worker(handler=handler)
    client = await world.client()
    await client.send(post(b"Content-Length: 100000", body=b"a" * 1000))
    status, head, _ = await client.response()
    assert status == 403
    assert b"Connection: close" in head
    await client.send(b"a" * 99000)
    assert await client.ended() is None
