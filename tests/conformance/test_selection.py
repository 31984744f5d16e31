"""Point 18: requests through a gateway reach whom the policy chooses, while workers come, fail, fill up and go."""

import asyncio
import re
import threading
from itertools import pairwise

import msgspec
import pytest

from lab import plugins
from lab.core.events import EventKind
from lab.core.model import HashSpec, Queue, Timeouts
from tests.conformance.conftest import GET, OK, Gate


async def setting(world, **changes):
    """Change the app's settings while the gateway runs."""
    upstream = msgspec.structs.replace(world.spec.upstreams[0], **changes)
    world.spec = msgspec.structs.replace(world.spec, upstreams=(upstream,))
    await world.proxy.apply(world.spec)


async def ask(world, cookie="", path="/"):
    """One request on a connection of its own: its status, and what it is told to keep as a cookie."""
    client = await world.client()
    fields = f"Cookie: other=1; {cookie}\r\n" if cookie else ""
    await client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n".encode())
    status, head, _ = await client.response()
    cookies = [line for line in head.decode().split("\r\n") if line.startswith("Set-Cookie: ")]
    assert len(cookies) <= 1
    return status, cookies[0].removeprefix("Set-Cookie: ") if cookies else ""


def counts(workers):
    return [len(worker.requests) for worker in workers]


@pytest.mark.parametrize("name", plugins.names("cgilab.selection"))
async def test_18_each_policy_serves_while_workers_come_and_go(world, name):
    await world.start(selection=name, queue_length=100)
    workers = [await world.worker(concurrency=1) for _ in range(4)]
    for number in range(6):
        assert all(status == 200 for status, _ in await asyncio.gather(*(ask(world) for _ in range(12))))
        if number % 2:
            world.proxy.add(world.endpoints[1])
        else:
            world.proxy.remove(world.endpoints[1])
    assert sum(counts(workers)) == 72
    assert world.conserved()
    assert [one.in_flight for one in world.proxy.observe().upstreams[0].endpoints] == [0] * 4


async def test_18_the_policy_changes_while_requests_come(world):
    await world.start(selection="first_available")
    workers = [await world.worker() for _ in range(3)]
    for _ in range(3):
        await ask(world)
    assert counts(workers) == [3, 0, 0]
    await setting(world, selection="round_robin")
    for _ in range(6):
        await ask(world)
    assert counts(workers) == [5, 2, 2]


async def test_18_weights_are_by_slot_and_change_while_requests_come(world):
    await world.start(selection="weighted_round_robin", weights=(3, 1))
    workers = [await world.worker() for _ in range(3)]
    for _ in range(10):
        await ask(world)
    assert counts(workers) == [6, 2, 2]
    await setting(world, weights=(1, 8))
    for _ in range(10):
        await ask(world)
    assert counts(workers) == [7, 10, 3]


async def test_18_a_newcomer_starts_slowly_and_has_its_whole_weight_in_the_end(world):
    await world.start(selection="weighted_round_robin", slow_start=1.0)
    await world.worker()
    await world.until(lambda: weights(world) == [1.0])
    now = asyncio.get_running_loop().time
    began = now()
    await world.worker()
    first, second = weights(world)
    assert (first, second) == (1.0, pytest.approx(0.1, abs=0.05 + now() - began))
    seen = [second]
    await world.until(lambda: seen.append(weights(world)[1]) or seen[-1] == 1.0)
    assert all(one <= other for one, other in pairwise(seen)), "it only grows"
    assert any(0.1 < one < 1.0 for one in seen)


async def test_18_a_worker_that_is_well_again_starts_slowly_too(world):
    await world.start(selection="weighted_round_robin")
    for _ in range(2):
        await world.worker()
    await setting(world, slow_start=1000.0)
    await world.until(lambda: weights(world) == pytest.approx([0.1, 0.1], abs=0.05))
    await setting(world, slow_start=0.05)
    await world.until(lambda: weights(world) == [1.0, 1.0])
    upstream, state = world.proxy._upstreams["app"], world.proxy._endpoints[world.endpoints[0]]
    upstream.hold_back(state, True)
    await setting(world, slow_start=1000.0)
    upstream.hold_back(state, False)
    assert weights(world)[0] == pytest.approx(0.1, abs=0.05)


def weights(world):
    return [one.weight for one in world.proxy.observe().upstreams[0].endpoints]


async def test_18_peak_ewma_measures_answers_and_is_shown_and_others_measure_nothing(world):
    await world.start(selection="peak_ewma")

    async def slow(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.2)
            writer.write(OK)

    await world.worker()
    await world.worker(handler=slow)
    for _ in range(20):
        assert (await ask(world))[0] == 200
    fast, late = world.proxy.observe().upstreams[0].endpoints
    assert fast.answered > late.answered > 0
    assert fast.ewma_ms < late.ewma_ms
    assert late.ewma_ms > 50, "half of it may have faded"
    await setting(world, selection="round_robin")
    assert [one.ewma_ms for one in world.proxy.observe().upstreams[0].endpoints] == [None, None]


async def test_18_a_worker_that_times_out_is_no_fast_worker(world):
    await world.start(Timeouts(response_head=0.1), selection="peak_ewma")
    gate = Gate()
    await world.worker(handler=gate)
    assert (await ask(world))[0] == 504
    assert world.proxy.observe().upstreams[0].endpoints[0].ewma_ms > 50


async def test_18_equal_paths_reach_the_same_worker_and_unlike_ones_do_not_all(world):
    await world.start(selection="consistent_hash", hash=HashSpec(key="path"))
    workers = [await world.worker() for _ in range(4)]
    for path in "abcdefgh":
        for query in "123":
            await ask(world, path=f"/{path}?{query}")
    reached = [{request.split(b"?")[0] for request in worker.requests} for worker in workers]
    assert sum(map(len, reached)) == 8, "no path reached two workers"
    assert sum(map(bool, reached)) > 1


async def test_18_a_sticky_session_survives_and_moves_when_its_worker_leaves(world):
    await world.start(selection="sticky_cookie")
    workers = [await world.worker() for _ in range(3)]
    _, told = await ask(world)
    session, _, attributes = told.partition("; ")
    assert attributes == "Path=/; HttpOnly; SameSite=Lax"
    home = counts(workers).index(1)
    for _ in range(5):
        assert await ask(world, session) == (200, "")
    assert counts(workers)[home] == 6
    world.proxy.remove(world.endpoints[home])
    status, told = await ask(world, session)
    assert status == 200
    moved = told.partition("; ")[0]
    assert moved not in ("", session)
    assert await ask(world, moved) == (200, "")
    assert sorted(counts(workers)) == [0, 2, 6], "it has a new home"


async def test_18_a_home_that_refuses_connections_is_left_for_this_request_and_told_when_it_is_gone(world):
    await world.start(selection="sticky_cookie")
    workers = [await world.worker() for _ in range(2)]
    session = (await ask(world))[1].partition("; ")[0]
    home = counts(workers).index(1)
    await workers[home].stop()
    await world.until(lambda: world.proxy.observe().connections == 0)
    assert await ask(world, session) == (200, ""), "whether it is dead, only the pool knows"
    world.proxy.remove(world.endpoints[home])
    status, told = await ask(world, session)
    assert status == 200
    assert told


@pytest.fixture
async def busy_home(world):
    """A session whose worker is busy with a request of somebody else, and another worker that is idle."""
    await world.start(selection="sticky_cookie")
    gate = Gate()
    await world.worker(handler=gate, concurrency=1)
    client = await world.client()
    await client.send(GET)
    await gate.arrived.acquire()
    gate.go.release()
    _, head, _ = await client.response()
    await client.send(GET)
    await gate.arrived.acquire()
    other = await world.worker(concurrency=1)
    return gate, other, head.decode().partition("Set-Cookie: ")[2].partition(";")[0]


def waiting(world):
    return world.proxy.observe().upstreams[0].queue


async def test_18_a_sticky_request_waits_for_its_home_while_others_are_served(world, busy_home):
    gate, other, session = busy_home
    mine = asyncio.create_task(ask(world, session))
    await world.until(lambda: waiting(world) == 1)
    assert (await ask(world))[0] == 200
    assert (len(other.requests), waiting(world)) == (1, 1)
    gate.go.release()
    await gate.arrived.acquire()
    gate.go.release()
    assert await mine == (200, "")
    assert len(other.requests) == 1


@pytest.mark.parametrize("how", ["it leaves", "it falls ill"])
async def test_18_who_waits_for_a_home_that_takes_no_more_is_served_elsewhere(world, busy_home, how):
    _, other, session = busy_home
    mine = asyncio.create_task(ask(world, session))
    await world.until(lambda: waiting(world) == 1)
    if how == "it leaves":
        world.proxy.remove(world.endpoints[0])
    else:
        world.proxy._upstreams["app"].hold_back(world.proxy._endpoints[world.endpoints[0]], True)
    status, told = await mine
    assert (status, bool(told)) == (200, how == "it leaves"), "an ill worker may be well again, and keeps its clients"
    assert len(other.requests) == 1


async def test_18_a_sticky_request_whose_home_has_a_queue_of_its_own_is_sent_at_once(world, busy_home):
    gate, other, session = busy_home
    await setting(world, queue=Queue.WORKER)
    mine = asyncio.create_task(ask(world, session))
    await gate.arrived.acquire()
    assert waiting(world) == 0
    gate.go.release()
    gate.go.release()
    assert await mine == (200, "")
    assert other.requests == []


async def test_18_a_request_from_the_queue_is_told_its_home_too(world):
    await world.start(selection="sticky_cookie")
    waiting = asyncio.create_task(ask(world))
    await world.until(lambda: world.proxy.observe().upstreams[0].queue == 1)
    await world.worker()
    status, told = await waiting
    assert status == 200
    assert told.startswith("cgilab-app=")


async def test_18_no_other_answer_on_the_connection_gets_the_cookie(world):
    await world.start(selection="sticky_cookie")
    await world.worker()
    client = await world.client()
    await client.send(GET)
    assert b"Set-Cookie: " in (await client.response())[1]
    await setting(world, selection="round_robin")
    await client.send(GET)
    assert b"Set-Cookie: " not in (await client.response())[1]


# -- a policy of one's own

LAST = "class Policy:\n    def choose(self, endpoints, request):\n        return endpoints[-1]\n"


def mistakes(world):
    """What was told of the policy, but for how long it took: on a busy machine anything takes long now and then."""
    told = (event for event in world.events.read().events if event.kind is EventKind.SELECTION)
    return [event for event in told if "choose took" not in event.text]


async def told(world, number):
    """So many events about the policy."""
    await world.until(lambda: len(mistakes(world)) >= number)
    return mistakes(world)[number - 1]


async def test_18_a_policy_of_ones_own_chooses(world, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(LAST)
    await world.start(selection=str(file))
    workers = [await world.worker() for _ in range(3)]
    assert (await told(world, 1)).text == "app: mine.py is loaded, and chooses from now on"
    for _ in range(4):
        assert (await ask(world))[0] == 200
    assert counts(workers) == [0, 0, 4]


async def test_18_an_edited_file_is_loaded_anew_and_an_equal_one_is_not(world, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(LAST)
    await world.start(selection=str(file))
    workers = [await world.worker() for _ in range(3)]
    await told(world, 1)
    await setting(world, edition=1)
    file.write_text(LAST.replace("[-1]", "[0]"))
    await setting(world, edition=2)
    await told(world, 2)
    await ask(world)
    assert counts(workers) == [1, 0, 0]
    assert len(mistakes(world)) == 2


async def test_18_a_policy_sees_what_candidates_have_and_cannot_change_it(world, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "class Policy:\n"
        "    def choose(self, endpoints, request):\n"
        "        one = endpoints[0]\n"
        "        assert [each.slot for each in endpoints] == [0, 1], endpoints\n"
        "        assert (one.in_flight, one.weight) == (0, 2.0)\n"
        "        assert (request.method, request.path, request.client) == ('GET', '/a', '127.0.0.1')\n"
        "        assert (request.cookie('other'), request.cookie('x'), request.cookie('y')) == ('1', '2', None)\n"
        "        assert (request.header('HOST'), request.header('nothing')) == ('x', None)\n"
        "        if one.chosen:\n"
        "            assert one.ewma > 0\n"
        "            one.in_flight = -1\n"
        "        return one\n"
    )
    await world.start(selection=str(file), weights=(2,))
    workers = [await world.worker() for _ in range(2)]
    await told(world, 1)
    assert await ask(world, "x=2", "/a?b") == (200, "")
    assert counts(workers) == [1, 0]
    assert len(mistakes(world)) == 1
    await ask(world, "x=2", "/a?b")
    assert "line 11: choose raised AttributeError" in (await told(world, 2)).text
    assert world.conserved()


BROKEN = {
    "syntax": ("class Policy\n", 1, "SyntaxError: expected ':'; expected a class Policy with choose"),
    "no class": ("x = 1\n", None, "it has no class Policy; expected"),
    "no choose": ("class Policy:\n    pass\n", None, "its Policy has no choose; expected"),
    "raises while it is loaded": ("\n\n1 / 0\n", 3, "ZeroDivisionError: division by zero; expected"),
    "exits while it is loaded": ("raise SystemExit(3)\n", 1, "SystemExit: 3; expected"),
    "interrupts while it is loaded": ("raise KeyboardInterrupt\n", 1, "KeyboardInterrupt; expected"),
    "cancels while it is loaded": ("import asyncio\nraise asyncio.CancelledError\n", 2, "CancelledError; expected"),
    "raises when it is made": ("class Policy:\n    def __init__(self):\n        1 / 0\n", 3, "ZeroDivisionError"),
    "async": ("class Policy:\n    async def choose(self, e, r):\n        return e[0]\n", None, "has an async choose"),
    "yields": (
        "class Policy:\n    def choose(self, e, r):\n        yield e[0]\n",
        None,
        "has a choose that yields",
    ),
    "never comes to its end": ("\nwhile True: pass\n", 2, "was not loaded in time, and then it was stopped; exp"),
    "no text": ("\0", None, "expected a class Policy"),
}


@pytest.mark.parametrize(("text", "line", "expected"), BROKEN.values(), ids=BROKEN)
async def test_18_a_file_that_does_not_load_is_told_and_requests_go_on_in_turn(world, tmp_path, text, line, expected):
    file = tmp_path / "mine.py"
    file.write_text(text)
    await world.start(selection=str(file))
    workers = [await world.worker() for _ in range(3)]
    event = await told(world, 1)
    assert expected in event.text
    assert (event.data["file"], event.data["line"]) == (str(file), line)
    assert event.text.startswith("app: mine.py: " if line is None else f"app: mine.py, line {line}: ")
    assert event.text.endswith("Requests go on by round robin")
    for _ in range(6):
        assert (await ask(world))[0] == 200
    assert counts(workers) == [2, 2, 2]


async def test_18_a_file_that_is_gone_is_told_and_found_again(world, tmp_path):
    file = tmp_path / "mine.py"
    await world.start(selection=str(file))
    await world.worker()
    assert "mine.py: it cannot be read: No such file or directory; expected" in (await told(world, 1)).text
    file.write_text(LAST)
    await setting(world, edition=1)
    assert "is loaded" in (await told(world, 2)).text


async def test_18_a_file_that_waits_in_c_while_it_is_loaded_is_told_and_requests_go_on(world, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import time\ntime.sleep(9)\n" + LAST)
    await world.start(selection=str(file))
    workers = [await world.worker() for _ in range(3)]
    assert "mine.py: it has not been loaded for 7 s; expected a class Policy" in (await told(world, 1)).text
    for _ in range(3):
        assert (await ask(world))[0] == 200
    assert counts(workers) == [1, 1, 1]
    assert "mine.py, line 2: it was not loaded in time" in (await told(world, 2)).text


WRONG = {
    "raises": ("return 1 / 0", "line 3: choose raised ZeroDivisionError: division by zero; expected one of the"),
    "an error that cannot be told": ("raise type('E', (Exception,), {'__str__': None})", "line 3: choose raised"),
    "exits": ("raise SystemExit", "line 3: choose raised SystemExit; expected"),
    "interrupts": ("raise KeyboardInterrupt", "line 3: choose raised KeyboardInterrupt; expected"),
    "cancels": ("import asyncio; raise asyncio.CancelledError", "line 3: choose raised asyncio.exceptions.CancelledE"),
    "goes too deep": ("return self.choose(endpoints, request)", "line 3: choose raised RecursionError: maximum recur"),
    "wants too much": ("return [0] * 10**15", "line 3: choose raised MemoryError; expected one of the endpoints"),
    "says too much": ("raise ValueError('x' * 10**6)", f"line 3: choose raised ValueError: {'x' * 188}...; expected"),
    "changes what it gets": ("endpoints.pop()", "line 3: choose raised AttributeError: 'tuple' object has no attr"),
    "None": ("pass", "line 2: choose returned None; expected one of the 3 endpoints that it was offered"),
    "a number": ("return 0", "line 2: choose returned something of type int; expected one of"),
    "another one of the kind": (
        "return type(endpoints[0])(endpoints[0])",
        "line 2: choose returned an endpoint of an earlier call (keep its slot instead); expected one of the 3",
    ),
    "itself for everything": (
        "return type('Equal', (), {'__eq__': lambda self, other: True, '__hash__': lambda self: 0})()",
        "line 2: choose returned something of type Equal",
    ),
}


@pytest.mark.parametrize(("answer", "expected"), WRONG.values(), ids=WRONG)
async def test_18_a_wrong_choice_is_told_and_its_client_notices_nothing(world, tmp_path, answer, expected):
    file = tmp_path / "mine.py"
    file.write_text(f"class Policy:\n    def choose(self, endpoints, request):\n        {answer}\n")
    await world.start(selection=str(file))
    workers = [await world.worker() for _ in range(3)]
    await told(world, 1)
    for _ in range(6):
        assert (await ask(world))[0] == 200
    assert counts(workers) == [2, 2, 2]
    event = await told(world, 2)
    assert expected in event.text
    assert event.text.endswith("Requests go on by round robin")
    assert len(mistakes(world)) == 2, "told once a second at most"
    await world.until(lambda: mistakes(world)[-1].at < world.events._clock.monotonic() - 1)
    await ask(world)
    assert (await told(world, 3)).text.endswith("(5 more like this were not told)")


async def test_18_a_slow_choice_is_told_and_counts(world, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import time\n\nclass Policy:\n    def choose(self, endpoints, request):\n"
        "        time.sleep(0.005)\n        return endpoints[1]\n"
    )
    await world.start(selection=str(file))
    workers = [await world.worker() for _ in range(3)]
    await told(world, 1)
    await ask(world)
    (text,) = (text for text in world.told(EventKind.SELECTION) if "took" in text)
    assert re.fullmatch(
        r"app: mine\.py, line 4: choose took [\d.]+ ms, and everybody waited; expected 1 ms at most", text
    )
    assert counts(workers) == [0, 1, 0]


NEVER = {
    "a loop": ("while True:\n            pass", {4, 5}),
    "a loop that catches errors": (
        "while True:\n            try:\n                int('x')\n            except Exception:\n                pass",
        {4, 5, 6, 7, 8},
    ),
    "a loop that catches everything once": (
        "try:\n            while True:\n                pass\n        except BaseException:\n            pass\n"
        "        while True:\n            pass",
        {9, 10},
    ),
    "a comparison without an end": ("return min(endpoints, key=lambda one: [0 for _ in iter(int, 1)])", {4}),
}


@pytest.mark.parametrize(("body", "lines"), NEVER.values(), ids=NEVER)
async def test_18_a_choice_that_never_comes_is_ended_and_its_client_notices_only_the_wait(world, tmp_path, body, lines):
    file = tmp_path / "mine.py"
    file.write_text(f"\nclass Policy:\n    def choose(self, endpoints, request):\n        {body}\n")
    await world.start(selection=str(file))
    workers = [await world.worker() for _ in range(3)]
    await told(world, 1)
    for _ in range(6):
        assert (await ask(world))[0] == 200
    assert counts(workers) == [2, 2, 2]
    event = await told(world, 2)
    assert re.search(r"choose did not return, everybody waited for [\d.]+ s, and then it was stopped; exp", event.text)
    assert event.text.endswith("Requests go on by round robin until the file is saved again")
    assert event.data["file"] == str(file)
    assert event.data["line"] in lines
    assert len(mistakes(world)) == 2, "it is asked once and no more"
    file.write_text(LAST)
    await setting(world, edition=1)
    assert "is loaded" in (await told(world, 3)).text
    before = counts(workers)
    await ask(world)
    assert counts(workers) == [*before[:2], before[2] + 1]
    assert world.conserved()


async def test_18_a_choice_that_waits_in_c_is_told_when_it_comes_back(world, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import time\n\nclass Policy:\n    def choose(self, endpoints, request):\n"
        "        time.sleep(2.5)\n        return endpoints[-1]\n"
    )
    await world.start(selection=str(file))
    workers = [await world.worker() for _ in range(3)]
    await told(world, 1)
    heard, over = [], threading.Event()

    def look():
        while not over.wait(0.05):
            heard.append(world.proxy.held_up())

    watching = threading.Thread(target=look)
    watching.start()
    try:
        for _ in range(3):
            assert (await ask(world))[0] == 200
    finally:
        over.set()
        watching.join()
    assert counts(workers) == [1, 1, 1]
    told_by_others = "Everybody waits for choose at mine.py, line 5: it is in code that cannot be interrupted."
    assert set(heard) == {"", told_by_others}
    assert world.proxy.held_up() == ""
    event = await told(world, 2)
    assert event.data["line"] == 5
    assert float(re.search(r"waited for ([\d.]+) s", event.text)[1]) >= 2.5


async def test_18_nobody_watches_a_policy_that_is_no_longer_there(world, tmp_path):
    def watchdogs():
        return sum(thread.name == "watchdog" for thread in threading.enumerate())

    file = tmp_path / "mine.py"
    file.write_text(LAST)
    await world.start(selection=str(file))
    await told(world, 1)
    assert watchdogs() == 1
    file.write_text(LAST.replace("-1", "0"))
    await setting(world, edition=1)
    await told(world, 2)
    await world.until(lambda: watchdogs() == 1)
    await setting(world, selection="round_robin")
    await world.until(lambda: watchdogs() == 0)
    await setting(world, selection=str(file))
    await told(world, 3)
    await world.proxy.close()
    await world.until(lambda: watchdogs() == 0)
