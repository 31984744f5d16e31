"""Requests to workers that speak FastCGI: what they are told, what becomes of their answers, and of their faults."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from lab.core.events import EventKind
from lab.core.model import Limits, Timeouts, Wire
from lab.wire import fastcgi
from lab.wire.fastcgi import Application, Ending, Kind

GET = b"GET /app/a%20b?q=1 HTTP/1.1\r\nHost: example.org:81\r\n\r\n"


def says(answer: bytes):
    """A handler that writes `answer` and ends the request."""

    def handler(params: dict[bytes, bytes], body: bytes, application: Application) -> None:
        application.write(answer)
        application.end_request()

    return handler


def echo(params: dict[bytes, bytes], body: bytes, application: Application) -> None:
    application.write(b"Content-Type: application/octet-stream\r\n\r\n" + body)
    application.end_request()


async def begin(world, path: Path, handler=echo, **spec):
    await world.start(script="/srv/app.py", **spec)
    return await world.fastcgi(path / "socket", handler)


async def ask(world, request: bytes = GET):
    client = await world.client()
    await client.send(request)
    return await client.response(to_head=request.startswith(b"HEAD"))


# -- the request


async def test_a_worker_is_told_everything_that_rfc_3875_names(world, tmp_path):
    worker = await begin(world, tmp_path)
    await ask(world, GET.replace(b"\r\n\r\n", b"\r\nCookie: a=b\r\nX-Two: 1\r\nX-Two: 2\r\n\r\n"))
    (told,) = worker.requests
    port = str(world.address[1]).encode()
    assert int(told.pop(b"REMOTE_PORT")) > 0
    assert told == {
        b"GATEWAY_INTERFACE": b"CGI/1.1",
        b"SERVER_SOFTWARE": b"cgilab",
        b"SERVER_NAME": b"example.org",
        b"SERVER_PORT": port,
        b"SERVER_PROTOCOL": b"HTTP/1.1",
        b"REQUEST_SCHEME": b"http",
        b"REQUEST_METHOD": b"GET",
        b"REQUEST_URI": b"/app/a%20b?q=1",
        b"SCRIPT_FILENAME": b"/srv/app.py",
        b"SCRIPT_NAME": b"",
        b"PATH_INFO": b"/app/a b",
        b"QUERY_STRING": b"q=1",
        b"REMOTE_ADDR": b"127.0.0.1",
        b"REDIRECT_STATUS": b"200",
        b"HTTP_HOST": b"example.org:81",
        b"HTTP_COOKIE": b"a=b",
        b"HTTP_X_TWO": b"1, 2",
    }


async def test_names_that_could_pass_for_others_and_proxy_never_reach_a_worker(world, tmp_path):
    worker = await begin(world, tmp_path)
    fields = b"X_Forwarded_For: 1\r\nX.Forwarded.For: 2\r\nX-Forwarded-For: 3\r\nProxy: http://evil\r\nTE: x\r\n"
    await ask(world, GET.replace(b"\r\n\r\n", b"\r\n" + fields + b"\r\n"))
    assert not [name for name in worker.requests[0] if name not in (b"HTTP_HOST",) and name.startswith(b"HTTP_")]


async def test_authorization_reaches_a_worker_because_the_gateway_checks_nobody(world, tmp_path):
    worker = await begin(world, tmp_path)
    await ask(world, GET.replace(b"\r\n\r\n", b"\r\nAuthorization: Basic eA==\r\n\r\n"))
    assert worker.requests[0][b"HTTP_AUTHORIZATION"] == b"Basic eA=="


@pytest.mark.parametrize("size", [1, 70_000, 1_000_000])
async def test_a_body_of_any_length_arrives_and_comes_back_whole(world, tmp_path, size):
    worker = await begin(world, tmp_path)
    body = os.urandom(size)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: %d\r\n\r\n" % size
    status, _, back = await ask(world, head + body)
    assert (status, back) == (200, body)
    assert worker.requests[0][b"CONTENT_LENGTH"] == str(size).encode()
    assert worker.requests[0][b"CONTENT_TYPE"] == b"a/b"


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"


async def test_a_body_in_chunks_is_collected_and_given_its_length(world, tmp_path):
    worker = await begin(world, tmp_path)
    client = await world.client()
    await client.send(CHUNKED + b"\r\n5\r\nhello\r\n")
    await world.until(lambda: world.proxy.observe().totals.accepted == 1)
    assert worker.connections == 0
    await client.send(b"6\r\n world\r\n0\r\n\r\n")
    assert (await client.response())[2] == b"hello world"
    assert worker.requests[0][b"CONTENT_LENGTH"] == b"11"
    assert await client.is_open()


async def test_a_body_in_chunks_that_is_longer_than_the_buffer_is_refused_with_411(world, tmp_path):
    worker = await begin(world, tmp_path, limits=Limits(cgi_buffer=10))
    status, _, body = await ask(world, CHUNKED + b"\r\nb\r\nhello world\r\n0\r\n\r\n")
    assert status == 411
    assert "Content-Length" in json.loads(body)["remedy"]
    assert worker.connections == 0


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        CHUNKED + b"Expect: 100-continue\r\n\r\n",
    ],
)
async def test_the_gateway_itself_tells_a_client_to_continue(world, tmp_path, head):
    worker = await begin(world, tmp_path)
    client = await world.client()
    await client.send(head)
    assert (await client.response())[0] == 100
    await client.send(b"hello" if b"Content-Length" in head else b"5\r\nhello\r\n0\r\n\r\n")
    assert (await client.response())[2] == b"hello"
    assert b"HTTP_EXPECT" not in worker.requests[0]


@pytest.mark.parametrize("path", [b"/a%zz", b"/a%00b"])
async def test_a_path_that_no_variable_can_hold_is_refused_before_a_worker_sees_it(world, tmp_path, path):
    worker = await begin(world, tmp_path)
    assert (await ask(world, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 400
    assert worker.connections == 0


async def test_a_field_longer_than_a_record_is_refused_with_431(world, tmp_path):
    await begin(world, tmp_path, limits=Limits(head=100_000))
    request = GET.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 70_000 + b"\r\n\r\n")
    assert (await ask(world, request))[0] == 431
    assert await world.get() == 200


# -- the answer


async def test_a_whole_answer_leaves_with_its_length_and_one_that_streams_in_chunks(world, tmp_path):
    def streams(params, body, application):
        application.write(b"Content-Type: text/plain\n\nfirst ")
        worker.send(application)
        application.write(b"second")
        asyncio.get_running_loop().call_later(0.05, lambda: (application.end_request(), worker.send(application)))

    worker = await begin(world, tmp_path)
    _, head, body = await ask(world)
    assert b"Content-Length: 0" in head
    worker.handler = streams
    _, head, body = await ask(world)
    assert b"Transfer-Encoding: chunked" in head
    assert body == b"first second"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"Status: 404 Not Found\r\nContent-Type: a/b\r\n\r\n", 404),
        (b"Content-Type: a/b\n\nx", 200),
        (b"Status: 204\n\n", 204),
        (b"Location: http://elsewhere/\n\n", 302),
        (b"Status: 301\nLocation: /here\n\n", 301),
        (b"Status: 799\nContent-Type: a/b\n\n", 502),
        (b"Status: 100 Continue\n\n", 502),
        (b"X: no content type\n\nbody", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\n", 502),
        (b"Content-Type: a/b\r\nX: a\rb\r\n\r\n", 502),
        (b"Content-Type: a/b\r\nX: a\0b\r\n\r\n", 502),
        (b"Content-Type: a/b\r\n X: folded\r\n\r\n", 502),
        (b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n", 502),
        (b"Content-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 502),
        (b"Content-Type: a/b\r\nContent-Length: -1\r\n\r\n", 502),
        (b"Content-Type: a/b\r\nContent-Length: 5\r\n\r\nfour", 502),
        (b"no header at all\n", 502),
        (b"", 502),
        (b"X: " + b"x" * 70_000, 502),
    ],
)
async def test_an_answer_is_what_rfc_3875_makes_of_it_and_otherwise_502(world, tmp_path, answer, status):
    await begin(world, tmp_path, says(answer))
    assert (await ask(world))[0] == status
    assert world.conserved()


async def test_fields_of_one_connection_are_not_passed_on_and_line_feeds_become_line_ends(world, tmp_path):
    await begin(
        world, tmp_path, says(b"Content-Type: a/b\nConnection: close\nKeep-Alive: 5\nX-Mine: 1\nStatus: 200\n\nx")
    )
    _, head, _ = await ask(world)
    assert b"\r\nX-Mine: 1\r\n" in head
    assert b"Connection" not in head
    assert b"Keep-Alive" not in head
    assert b"Status" not in head


async def test_head_is_answered_without_a_body_whatever_the_worker_writes(world, tmp_path):
    await begin(world, tmp_path, says(b"Content-Type: a/b\r\n\r\nbody"))
    client = await world.client()
    await client.send(GET.replace(b"GET", b"HEAD"))
    assert (await client.response(to_head=True))[0] == 200
    assert await client.is_open()


async def test_what_exceeds_a_content_length_is_cut_and_told(world, tmp_path):
    await begin(world, tmp_path, says(b"Content-Type: a/b\r\nContent-Length: 3\r\n\r\nabcdef"))
    client = await world.client()
    await client.send(GET)
    assert (await client.response())[2] == b"abc"
    assert await client.is_open()
    assert "3 bytes more than its Content-Length" in world.told(EventKind.NOTE)[0]


async def test_what_a_worker_complains_of_is_told_at_most_once_a_second(world, tmp_path):
    def complains(params, body, application):
        application.write(b"PHP Warning: oh", Kind.STDERR)
        echo(params, body, application)

    await begin(world, tmp_path, complains)
    assert [await world.get() for _ in range(3)] == [200] * 3
    assert world.told(EventKind.NOTE) == ["app/0: It complained: PHP Warning: oh"]


async def test_a_complaint_of_many_lines_is_told_as_one_sentence_that_no_terminal_obeys(world, tmp_path):
    def complains(params, body, application):
        application.write(b"\nPHP Fatal error: \x1b[2Joh\nStack trace:\n#0 {main}\n", Kind.STDERR)
        echo(params, body, application)

    await begin(world, tmp_path, complains)
    assert await world.get() == 200
    assert world.told(EventKind.NOTE) == ["app/0: It complained: PHP Fatal error: \\x1b[2Joh (and more)"]


@pytest.mark.parametrize(
    ("ending", "status"), [(Ending.CANT_MPX_CONN, 502), (Ending.OVERLOADED, 503), (Ending.UNKNOWN_ROLE, 502)]
)
async def test_a_worker_that_refuses_a_request_is_quoted(world, tmp_path, ending, status):
    await begin(world, tmp_path, lambda params, body, application: application.end_request(0, ending))
    got, _, body = await ask(world)
    assert got == status
    assert f"FCGI_{ending.name}" in json.loads(body)["detail"]


# -- local redirects


async def test_a_location_on_this_server_is_answered_by_who_has_that_path_as_a_get(world, tmp_path):
    def handler(params, body, application):
        here = params[b"PATH_INFO"] == b"/there"
        application.write(
            b"Content-Type: a/b\r\n\r\n" + params[b"REQUEST_METHOD"] + b" " + params[b"QUERY_STRING"]
            if here
            else b"Location: /there?b=2\r\n\r\n"
        )
        application.end_request()

    worker = await begin(world, tmp_path, handler)
    status, _, body = await ask(
        world, b"POST /here HTTP/1.1\r\nHost: x\r\nContent-Type: c/d\r\nContent-Length: 1\r\n\r\nx"
    )
    assert (status, body) == (200, b"GET b=2")
    assert b"CONTENT_TYPE" not in worker.requests[1]
    assert b"CONTENT_LENGTH" not in worker.requests[1]
    assert world.proxy.observe().totals.answered == 1
    assert world.conserved()


async def test_a_redirect_to_an_app_that_speaks_http_takes_nothing_of_the_body_along(world, tmp_path):
    await begin(world, tmp_path, says(b"Location: /other/\r\n\r\n"))
    other = msgspec.structs.replace(world.spec.upstreams[0], app="other", route="/other")
    await world.proxy.apply(msgspec.structs.replace(world.spec, upstreams=(*world.spec.upstreams, other)))
    worker = await world.worker(app="other")
    assert (await ask(world, CHUNKED + b"Expect: 100-continue\r\n\r\n1\r\nx\r\n0\r\n\r\n"))[2] == b"ok"
    head = worker.requests[0].lower()
    assert head.startswith(b"get /other/ http/1.1\r\n")
    assert b"transfer-encoding" not in head
    assert b"expect" not in head


async def test_redirects_that_never_end_are_ended(world, tmp_path):
    worker = await begin(world, tmp_path, says(b"Location: /again\n\n"))
    status, _, body = await ask(world)
    assert status == 502
    assert "more than 5 times" in json.loads(body)["detail"]
    assert len(worker.requests) == 6
    assert world.conserved()


# -- the end


def never_ends(answer: bytes):
    """A handler that writes `answer` and does not end the request."""
    return lambda params, body, application: application.write(answer)


@pytest.mark.parametrize(
    ("method", "answer"),
    [(b"GET", b"Content-Type: a/b\r\nContent-Length: 2\r\n\r\nok"), (b"HEAD", b"Content-Type: a/b\r\n\r\nok")],
)
async def test_a_worker_that_goes_on_after_its_answer_is_given_up_and_the_answer_stands(
    world, tmp_path, method, answer
):
    worker = await begin(world, tmp_path, never_ends(answer), timeouts=Timeouts(response_idle=0.2))
    client = await world.client()
    await client.send(GET.replace(b"GET", method))
    assert (await client.response(to_head=method == b"HEAD"))[0] == 200
    await world.until(lambda: worker.aborted == 1)
    worker.handler = says(answer)
    assert await client.is_open()
    totals = world.proxy.observe().totals
    assert (totals.answered, totals.failed) == (2, 0)
    assert world.conserved()


async def test_a_worker_that_dies_behind_its_content_length_breaks_nothing_off(world, tmp_path):
    await raw(world, tmp_path / "socket", fastcgi.record(Kind.STDOUT, 1, b"Status: 200\nContent-Length: 0\n\n"))
    client = await world.client()
    await client.send(GET)
    assert (await client.response())[0] == 200
    assert await client.is_open()
    assert world.proxy.observe().totals.failed == 0


async def test_complaints_do_not_pass_for_an_answer_that_goes_on(world, tmp_path):
    def complains(params, body, application):
        application.write(b"again", Kind.STDERR)
        worker.send(application)
        asyncio.get_running_loop().call_later(0.05, complains, params, body, application)

    def begins(params, body, application):
        application.write(b"Content-Type: a/b\r\n\r\nhalf")
        complains(params, body, application)

    worker = await begin(world, tmp_path, begins, timeouts=Timeouts(response_idle=0.3))
    client = await world.client()
    await client.send(GET)
    assert await client.ended() is ConnectionResetError


# -- the connection


async def test_a_connection_is_kept_and_used_again(world, tmp_path):
    worker = await begin(world, tmp_path)
    assert [await world.get() for _ in range(5)] == [200] * 5
    assert worker.connections == 1


async def test_over_a_shared_socket_no_connection_is_kept_because_the_kernel_chooses_who_serves(world, tmp_path):
    await world.start(script="/srv/app.py")
    worker = await world.fastcgi(tmp_path / "socket", echo, shared=True)
    assert [await world.get() for _ in range(3)] == [200] * 3
    assert worker.connections == 3


async def test_no_connection_holds_one_of_several_processes_behind_a_socket_as_php_fpm_has_them(world, tmp_path):
    await world.start(script="/srv/app.py")
    worker = await world.fastcgi(tmp_path / "socket", echo, concurrency=2)
    assert [await world.get() for _ in range(3)] == [200] * 3
    assert worker.connections == 3


async def test_a_connection_that_was_given_up_meanwhile_is_replaced_without_anybody_noticing(world, tmp_path):
    worker = await begin(world, tmp_path)
    assert await world.get() == 200

    worker._writers[0].transport.abort()
    assert await world.get() == 200
    assert worker.connections == 2


async def test_a_client_that_leaves_is_told_to_the_worker_by_an_abort(world, tmp_path):
    worker = await begin(world, tmp_path, lambda params, body, application: None)
    client = await world.client()
    await client.send(GET)
    await world.until(lambda: len(worker.requests) == 1)
    client.close()
    await world.until(lambda: worker.aborted == 1)
    assert world.proxy.observe().totals.abandoned == 1
    assert world.conserved()


async def raw(world, path: Path, answer: bytes, **spec) -> None:
    """A worker that answers any request with these bytes and hangs up."""

    async def serve(reader, writer):
        await reader.read(65536)
        writer.write(answer)
        writer.close()

    await world.start(script="/srv/app.py", **spec)
    world.server = await asyncio.start_unix_server(serve, path)
    world.add(path=str(path), wire=Wire.FASTCGI)


OUTPUT = fastcgi.record(Kind.STDOUT, 1, b"Content-Type: a/b\r\n\r\nhalf")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "before it answered"),
        (OUTPUT[:20], "in the middle"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "version 72"),
        (fastcgi.record(Kind.STDOUT, 7, b"x"), "request 7"),
        (fastcgi.record(Kind.PARAMS, 1, b"x"), "only a web server"),
        (fastcgi.record(Kind.END_REQUEST, 1, bytes(8)), "without output"),
        (OUTPUT[:-3].replace(b"half", b"") + b"\x01", "in the middle"),
    ],
)
async def test_what_is_no_fastcgi_is_a_502_that_says_so(world, tmp_path, answer, said):
    await raw(world, tmp_path / "socket", answer)
    status, _, body = await ask(world)
    assert status == 502
    assert said in json.loads(body)["detail"]
    assert world.conserved()


async def test_an_answer_that_breaks_off_reaches_the_client_as_broken_off(world, tmp_path):
    await raw(world, tmp_path / "socket", OUTPUT)
    client = await world.client()
    await client.send(GET)
    assert await client.ended() is ConnectionResetError
    assert world.proxy.observe().totals.failed == 1


async def test_a_worker_that_does_not_answer_in_time_is_a_504(world, tmp_path):
    await begin(world, tmp_path, lambda params, body, application: None, timeouts=Timeouts(response_head=0.1))
    assert (await ask(world))[0] == 504


async def test_a_slow_reader_holds_back_the_worker_and_gets_everything(world, tmp_path):
    size = 20_000_000

    def floods(params, body, application):
        application.write(b"Content-Type: a/b\r\n\r\n" + bytes(size))
        application.end_request()

    await begin(world, tmp_path, floods)
    client = await world.client()
    await client.send(GET)
    await asyncio.sleep(0.2)
    assert sum(down.transport.get_write_buffer_size() for down in world.proxy._gateway.downstreams) < 2_000_000
    assert len((await client.response())[2]) == size


async def test_a_worker_that_reads_nothing_holds_the_client_back_and_then_gets_everything(world, tmp_path):
    size, go = 50_000_000, asyncio.Event()

    async def serve(reader, writer):
        await go.wait()
        application, body = fastcgi.Application({}), 0
        while data := await reader.read(262_144):
            for event in application.feed(data):
                if isinstance(event, fastcgi.Body):
                    body += len(event.piece)
                    if not event.piece:
                        says(b"Content-Type: a/b\r\n\r\n%d" % body)({}, b"", application)
            writer.write(application.take())

    await world.start(script="/srv/app.py")
    world.server = await asyncio.start_unix_server(serve, tmp_path / "socket")
    world.add(path=str(tmp_path / "socket"), wire=Wire.FASTCGI)
    client = await world.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    sent = 0

    async def send() -> None:
        nonlocal sent
        while sent < size:
            await client.send(bytes(100_000))
            sent += 100_000

    sending = asyncio.create_task(send())
    await world.standstill(lambda: sent)
    assert sent < 20_000_000
    go.set()
    await asyncio.wait_for(sending, 30)
    assert (await client.response())[2] == b"%d" % size


async def test_nothing_is_kept_of_a_body_that_was_answered(world, tmp_path):
    await begin(world, tmp_path)
    client = await world.client()
    await client.send(CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n")
    assert (await client.response())[2] == b"hello"
    assert [downstream.exchange.upload for downstream in world.proxy._gateway.downstreams] == [None]


END = fastcgi.record(Kind.END_REQUEST, 1, bytes(8))
LONG = fastcgi.record(Kind.STDOUT, 1, b"Content-Type: a/b\r\nContent-Length: 4\r\n\r\nfour and more")
MOODS = [
    *[OUTPUT + END] * 8,
    LONG + END,
    LONG,
    OUTPUT,
    END,
    fastcgi.record(Kind.STDERR, 1, b"oh\nno") + OUTPUT + END,
    OUTPUT + END[:-1] + b"\x09",
    OUTPUT + fastcgi.record(Kind.END_REQUEST, 1, b"\0\0\0\7" + bytes(4)),
    fastcgi.record(Kind.END_REQUEST, 1, bytes((0, 0, 0, 0, Ending.OVERLOADED, 0, 0, 0))),
    fastcgi.record(Kind.STDOUT, 1, b"Location: /\n\n") + END,
    OUTPUT + END + OUTPUT,
    b"no FastCGI",
]


@pytest.mark.parametrize("seed", range(4))
async def test_28_every_request_has_one_outcome_whatever_a_fastcgi_worker_does(world, tmp_path, seed):
    rng = random.Random(seed)

    async def moody(reader, writer):
        application, cut = Application({}), False
        with contextlib.suppress(ConnectionError):  # it was given up
            while not cut and (data := await reader.read(65536)):
                if fastcgi.Body(b"") in application.feed(data):
                    mood, cut = rng.choice(MOODS), rng.random() < 0.2
                    await asyncio.sleep(rng.random() * 0.01)
                    writer.write(mood[: rng.randrange(len(mood))] if cut else mood)
                    application = Application({})
        writer.close()

    timeouts = Timeouts(queue=0.1, response_head=0.3, response_idle=0.2)
    await world.start(script="/srv/app.py", queue_length=5, timeouts=timeouts)
    servers = [await asyncio.start_unix_server(moody, tmp_path / str(number)) for number in range(3)]
    for number in range(3):
        world.add(path=str(tmp_path / str(number)), wire=Wire.FASTCGI)
    await world.visited(rng, 60)
    for server in servers:
        server.close()


# -- PHP


@pytest.fixture
def php(tmp_path: Path) -> Iterator[Path]:
    """The socket of a real php-cgi that runs the script beside it."""
    path = tmp_path / "php.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(16)
        environment = {"PATH": os.environ["PATH"], "PHP_FCGI_MAX_REQUESTS": "0", "PHP_FCGI_CHILDREN": "0"}
        process = subprocess.Popen(["php-cgi"], stdin=listening, env=environment)
    yield path
    process.kill()
    process.wait()


@pytest.mark.skipif(shutil.which("php-cgi") is None, reason="php-cgi is not installed")
async def test_php_reads_what_it_is_told_and_its_answer_is_understood(world, tmp_path, php):
    script = tmp_path / "script.php"
    script.write_text(
        """<?php header("X-Method: {$_SERVER['REQUEST_METHOD']}"); http_response_code(201);
        echo json_encode([$_SERVER['PATH_INFO'], $_GET['q'], $_POST['a'], $_SERVER['HTTP_X_LONG']]);"""
    )
    await world.start(script=str(script))
    world.add(path=str(php), wire=Wire.FASTCGI)
    head = b"POST /x/y?q=1 HTTP/1.1\r\nHost: x\r\nX-Long: %b\r\nContent-Length: 3\r\n" % (b"l" * 40_000)
    kind = b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    for _ in range(2):
        status, fields, body = await ask(world, head + kind + b"a=b")
        assert (status, json.loads(body)) == (201, ["/x/y", "1", "b", "l" * 40_000])
        assert b"X-Method: POST\r\n" in fields
