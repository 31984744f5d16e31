"""Classic CGI: a real process for each request, held to RFC 3875 and to its limits, and told of when it breaks them."""

import asyncio
import json
import os
import random
from pathlib import Path

import pytest

from lab.core.errors import UnavailableError
from lab.core.events import EventKind
from lab.core.model import CgiLimits, Timeouts, Wire
from lab.proxy.backends.python_builtin.cgi_process import CgiConnection
from tests.conformance.conftest import PATIENCE

GET = b"GET /app/x?q=1 HTTP/1.1\r\nHost: x\r\n\r\n"
HEADER = "import sys, os; out = sys.stdout.buffer; out.write(b'Content-Type: text/plain\\n\\n'); out.flush();"


async def begin(world, source: str, **spec) -> None:
    await world.start(script="/srv/app.py", **spec)
    world.cgi(source)


async def ask(world, request: bytes = GET):
    client = await world.client()
    await client.send(request)
    return await client.response(to_head=request.startswith(b"HEAD"))


def alive(world) -> bool:
    """Whether the last program still runs."""
    return world.programs[-1].alive


async def test_a_program_is_told_what_rfc_3875_names_and_nothing_of_the_labs_own_environment(world, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_LAB", "1")
    await begin(world, HEADER + "import json; print(json.dumps(dict(os.environ)))")
    told = json.loads((await ask(world, GET.replace(b"\r\n\r\n", b"\r\nAuthorization: x\r\nCookie: a=b\r\n\r\n")))[2])
    assert told["PATH_INFO"] == "/app/x"
    assert told["QUERY_STRING"] == "q=1"
    assert told["HTTP_COOKIE"] == "a=b"
    assert told["PATH"] == os.environ["PATH"]
    assert not {"SECRET_OF_THE_LAB", "HTTP_AUTHORIZATION", "HTTPS", "CONTENT_LENGTH"} & told.keys()


async def test_bytes_that_are_no_utf_8_arrive_as_they_were_sent(world):
    await begin(world, HEADER + "out.write(os.environb[b'PATH_INFO'] + os.environb[b'HTTP_X'])")
    request = b"GET /%ff HTTP/1.1\r\nHost: x\r\nX: \xfe\r\n\r\n"
    assert (await ask(world, request))[2] == b"/\xff\xfe"


@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
async def test_a_body_of_any_length_is_read_from_standard_input_to_its_end(world, size):
    await begin(world, HEADER + "out.write(sys.stdin.buffer.read())")
    body = os.urandom(size)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    assert (await ask(world, head + body))[2] == body


async def test_a_body_in_chunks_is_collected_first(world):
    await begin(world, HEADER + "print(os.environ['CONTENT_LENGTH']); print(sys.stdin.read())")
    request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    assert (await ask(world, request))[2] == b"3\nabc\n"


async def test_a_program_that_does_not_read_its_body_answers_all_the_same(world):
    await begin(world, HEADER + "out.write(b'done')")
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"
    client = await world.client()
    sending = asyncio.create_task(client.send(head, *([bytes(100_000)] * 30)))
    assert (await client.response())[2] == b"done"
    sending.cancel()


async def test_a_slow_program_holds_the_client_back_while_it_does_not_read(world):
    await begin(
        world, HEADER + "sys.stdin.readline(); os.kill(os.getpid(), 19); out.write(b'%d' % len(sys.stdin.read()))"
    )
    client = await world.client()
    size = 50_000_000
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    sent = 0

    async def send() -> None:
        nonlocal sent
        while sent < size:
            await client.send(b"\n" * 100_000)
            sent += 100_000

    sending = asyncio.create_task(send())
    await world.until(lambda: bool(world.programs) and _stopped(world.programs[0].pid))
    before = -1
    while before != sent:  # until nothing moves any more
        before = sent
        await asyncio.sleep(0.1)
    assert sent < size
    os.kill(world.programs[0].pid, 18)
    await asyncio.wait_for(sending, 30)
    assert (await client.response())[2] == b"%d" % (size - 1)


def _stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def test_a_slow_reader_holds_the_program_back_and_gets_everything(world):
    await begin(world, HEADER + "[out.write(bytes(100_000)) for _ in range(200)]")
    client = await world.client()
    await client.send(GET)
    await world.until(lambda: bool(world.programs))
    await asyncio.sleep(0.3)
    assert alive(world)
    assert len((await client.response())[2]) == 20_000_000


async def test_an_answer_streams_while_the_program_runs(world):
    source = HEADER + "out.write(b'one'); out.flush(); sys.stdin.read(1); out.write(b'two')"
    await begin(world, source, request_buffer=0)
    client = await world.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
    assert b"one" in await client.reader.readuntil(b"one")
    await client.send(b"x")
    assert b"two" in await client.reader.readuntil(b"two")


async def test_head_gets_no_body_even_if_one_is_written(world):
    await begin(world, HEADER + "out.write(b'body')")
    client = await world.client()
    await client.send(GET.replace(b"GET", b"HEAD"))
    assert (await client.response(to_head=True))[0] == 200
    assert await client.is_open()


async def test_a_location_on_this_server_is_followed_inside(world):
    redirect = (
        "import os; print('Content-Type: a/b\\n\\nhere' if os.environ['PATH_INFO'] == '/b' else 'Location: /b\\n')"
    )
    await begin(world, redirect)
    assert (await ask(world))[2] == b"here\n"
    assert len(world.programs) == 2


# -- faults


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "without output"),
        ("import os; os._exit(3)", "exited with code 3 before it answered"),
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV before it answered"),
        ("print('hello')", "expected Name: value"),
        ("print('HTTP/1.1 200 OK\\n')", "NPH"),
        ("print('Content-Type: a/b', end='')", "in the middle of its header, after 17 bytes"),
    ],
)
async def test_no_answer_is_a_502_and_an_event_that_say_what_happened(world, source, said):
    await begin(world, source)
    status, _, body = await ask(world)
    assert status == 502
    assert said in json.loads(body)["detail"]
    assert said in world.told(EventKind.CGI)[0]
    assert world.conserved()


async def test_an_exit_code_after_an_answer_is_told_and_the_answer_stands(world):
    await begin(world, HEADER + "out.write(b'fine'); out.flush(); os._exit(7)")
    assert (await ask(world))[2] == b"fine"
    assert "exited with code 7 after its answer" in world.told(EventKind.CGI)[0]


async def test_death_by_a_signal_in_the_middle_of_an_answer_breaks_it_off(world):
    await begin(world, HEADER + "out.write(b'half'); out.flush(); os.kill(os.getpid(), 9)")
    client = await world.client()
    await client.send(GET)
    assert await client.ended() is ConnectionResetError
    assert "SIGKILL in the middle of its answer" in world.told(EventKind.CGI)[0]
    assert world.proxy.observe().totals.failed == 1


async def test_less_than_its_content_length_breaks_the_answer_off(world):
    await begin(world, "print('Content-Type: a/b\\nContent-Length: 9\\n\\nshort')")
    client = await world.client()
    await client.send(GET)
    assert await client.ended() is ConnectionResetError
    assert "promised 9 bytes and ended after 6" in world.told(EventKind.CGI)[0]


async def test_output_beyond_its_content_length_is_cut_and_told(world):
    await begin(world, "print('Content-Type: a/b\\nContent-Length: 2\\n\\nokay', end='')")
    client = await world.client()
    await client.send(GET)
    assert (await client.response())[2] == b"ok"
    assert await client.is_open()
    assert "2 bytes more than its Content-Length" in world.told(EventKind.CGI)[0]


async def test_a_program_that_cannot_be_started_is_a_502_that_says_why(world):
    async def fails(app, env):
        raise UnavailableError("There is no such program.", "Write one.")

    await world.start(script="/srv/app.py")
    world.proxy._gateway.start_cgi = fails
    world.add(wire=Wire.CGI)
    status, _, body = await ask(world)
    assert status == 502
    assert "There is no such program" in json.loads(body)["detail"]


# -- limits


async def test_a_program_that_takes_too_long_is_killed_and_a_504(world):
    await begin(world, "import time; time.sleep(60)", cgi=CgiLimits(time=0.2))
    status, _, body = await ask(world)
    assert status == 504
    assert "was not done after 0.2 s" in json.loads(body)["detail"]
    await world.until(lambda: not alive(world))
    assert world.told(EventKind.CGI) == ["CGI program of app: It was killed after 0.2 s, before it was done."]


async def test_an_answer_that_takes_too_long_is_broken_off(world):
    await begin(world, HEADER + "import time; time.sleep(60)", cgi=CgiLimits(time=2))
    client = await world.client()
    await client.send(GET)
    assert await client.ended() is ConnectionResetError
    await world.until(lambda: not alive(world))
    assert world.conserved()


@pytest.mark.parametrize(
    ("limits", "source", "said"),
    [
        (
            CgiLimits(header=100),
            "print('X: ' + 'x' * 200, flush=True); import time; time.sleep(60)",
            "longer than 100 bytes",
        ),
        (
            CgiLimits(output=100),
            HEADER + "out.write(bytes(200)); out.flush(); import time; time.sleep(60)",
            "more than 100 bytes",
        ),
    ],
)
async def test_a_program_that_writes_too_much_is_killed_and_told(world, limits, source, said):
    await begin(world, source + "; import time; time.sleep(60)", cgi=limits)
    client = await world.client()
    await client.send(GET)
    await world.until(lambda: bool(world.programs) and not alive(world))
    assert said in world.told(EventKind.CGI)[0]
    assert world.proxy.observe().totals.failed == 1


async def test_a_program_is_killed_when_its_client_leaves(world):
    await begin(world, HEADER + "import time; time.sleep(60)")
    client = await world.client()
    await client.send(GET)
    await client.response(to_head=True)
    client.close()
    await world.until(lambda: not alive(world))
    assert world.proxy.observe().totals.abandoned == 1
    assert world.told(EventKind.CGI) == []


async def test_the_start_of_a_program_is_cancelled_when_its_client_leaves(world):
    cancelled = asyncio.Event()

    async def never(app, env):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await begin(world, "")
    world.proxy._gateway.start_cgi = never
    client = await world.client()
    await client.send(GET)
    await world.until(lambda: world.proxy.observe().upstreams[0].endpoints[0].in_flight == 1)
    client.close()
    await asyncio.wait_for(cancelled.wait(), PATIENCE)
    assert world.proxy.observe().totals.abandoned == 1
    assert world.proxy.observe().upstreams[0].endpoints[0].in_flight == 0


async def test_a_program_that_closes_its_output_and_works_on_keeps_nobody_waiting_and_lives(world):
    await begin(world, HEADER + "out.write(b'done'); out.flush(); os.close(1); import time; time.sleep(60)")
    assert (await ask(world))[2] == b"done"
    assert alive(world)


async def test_what_works_on_after_its_answer_is_killed_when_its_time_is_up(world):
    source = HEADER + "out.flush(); os.close(1); import time; time.sleep(60)"
    await begin(world, source, cgi=CgiLimits(time=2))
    assert (await ask(world))[0] == 200
    await world.until(lambda: not alive(world))


async def test_a_program_that_goes_on_behind_its_content_length_is_killed_and_its_answer_stands(world):
    source = "print('Content-Type: a/b\\nContent-Length: 2\\n\\nok', end='', flush=True); import time; time.sleep(60)"
    await begin(world, source, timeouts=Timeouts(response_idle=0.2))
    client = await world.client()
    await client.send(GET)
    assert (await client.response())[2] == b"ok"
    await world.until(lambda: not alive(world))
    world.source = HEADER + "out.write(b'fine')"
    assert await client.is_open()
    assert world.proxy.observe().totals.failed == 0


async def test_nothing_waits_for_a_program_that_ended_before_what_it_started(world):
    await begin(world, HEADER + "os.fork() or (__import__('time').sleep(0.3), out.write(b'late'), out.flush())")
    assert (await ask(world))[2] == b"late"
    buckets = world.proxy._gateway.wheel._buckets
    await world.until(
        lambda: not any(isinstance(timed, CgiConnection) for bucket in buckets.values() for timed in bucket)
    )


async def test_a_program_that_takes_long_to_start_is_a_502(world):
    async def never(app, env):
        await asyncio.Event().wait()

    await world.start(script="/srv/app.py", timeouts=Timeouts(connect=0.1))
    world.proxy._gateway.start_cgi = never
    world.add(wire=Wire.CGI)
    status, _, body = await ask(world)
    assert status == 502
    assert "longer than 0.1 s" in json.loads(body)["detail"]


async def test_no_descriptor_is_left_behind(world):
    await begin(world, HEADER + "out.write(b'x')")
    await ask(world)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        assert (await ask(world))[0] == 200
    for client in world._clients:
        client.close()
    await world.until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)


MOODY = """
import os, random, sys, time
out = sys.stdout.buffer
mood = random.randrange(10)
header = b"Content-Type: a/b\\n"
answers = [header + b"\\nok", header + b"Content-Length: 2\\n\\nok", header + b"Content-Length: 9\\n\\nok"]
answers += [b"Status: 204\\n\\n", b"Location: /\\n\\n", b"bad\\n", b"Content-Type", b""]
out.write(random.choice(answers))
out.flush()
if mood == 0: time.sleep(60)
if mood == 1: os.kill(os.getpid(), 9)
if mood == 2: os._exit(3)
if mood == 3: os.close(1); time.sleep(0.2)
if mood == 4: os.close(0)
"""


async def test_28_every_request_has_one_outcome_whatever_a_program_does(world):
    timeouts = Timeouts(queue=0.2, response_head=0.3, response_idle=0.2)
    await begin(world, MOODY, queue_length=5, timeouts=timeouts, cgi=CgiLimits(time=0.5))
    before = len(list(Path("/proc/self/fd").iterdir()))
    await world.visited(random.Random(1), 40)
    await world.until(lambda: not any(program.alive for program in world.programs))
    await world.until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)
