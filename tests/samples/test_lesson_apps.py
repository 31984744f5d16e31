"""The apps that lessons need: each does what its first lines say, and ends as a worker should."""

import json
import signal
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest

from lab import paths
from lab.config.manifest import load

SAMPLES = paths.content("samples")
APPS = ("sleepy", "flaky", "leaky", "counter")

Start = Callable[..., Any]


@pytest.fixture
def app(start: Any) -> Start:
    """Starts a lesson app on a free port."""

    def begin(name: str, **environment: str) -> Any:
        port = start.reserve()
        command = (sys.executable, str(SAMPLES / "lesson-apps" / f"{name}.py"), str(port))
        return start.run(command, ("127.0.0.1", port), **environment)

    return begin


def ask(worker: Any, query: str = "") -> tuple[int, dict[str, Any]]:
    """Status and document of one request; the worker speaks HTTP/1.0 and closes."""
    head, _, body = worker.send(f"GET /x?{query} HTTP/1.0\r\n\r\n".encode()).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_the_manifest_runs_all_of_them_each_on_a_route_of_its_name() -> None:
    manifest = load(SAMPLES / "lesson-apps.json")
    assert [(spec.name, spec.route) for spec in manifest.apps] == [(name, f"/{name}") for name in APPS]


@pytest.mark.parametrize("name", APPS)
def test_each_tells_its_pid_is_healthy_and_ends_with_0(app: Start, name: str) -> None:
    worker = app(name)
    status, document = ask(worker)
    assert (status, document["pid"], document["language"]) == (200, worker.process.pid, "python")
    assert worker.send(b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 ")
    assert worker.stop() == 0


@pytest.mark.parametrize("name", APPS)
def test_a_wrong_port_is_named(start: Any, app: Start, name: str) -> None:
    with pytest.raises(AssertionError, match="found port 'x', expected 1 to 65535"):
        start.run((sys.executable, str(SAMPLES / "lesson-apps" / f"{name}.py"), "x"), ("127.0.0.1", start.reserve()))


@pytest.mark.parametrize("wrong", ["ms=-1", "ms=10001", "ms=x", "ms=nan", "ms=inf"])
def test_sleepy_refuses_a_time_that_makes_no_sense(app: Start, wrong: str) -> None:
    status, document = ask(app("sleepy"), wrong)
    assert status == HTTPStatus.BAD_REQUEST
    assert document["error"] == f"found {wrong}, expected a number from 0 to 10000"


def test_sigterm_lets_sleepy_finish_its_request_and_answer_those_who_wait(app: Start) -> None:
    worker = app("sleepy")
    with worker.connect() as first, worker.connect() as second:
        first.sendall(b"GET /x?ms=300 HTTP/1.0\r\n\r\n")
        second.sendall(b"GET /x?ms=0 HTTP/1.0\r\n\r\n")
        worker.process.send_signal(signal.SIGTERM)
        assert b'"slept_ms": 300' in first.rest()
        assert b'"slept_ms": 0' in second.rest()
    assert worker.process.wait(30) == 0


def test_flaky_answers_500_when_it_is_to_fail_by_status(app: Start) -> None:
    worker = app("flaky")
    assert ask(worker, "fail=status")[0] == 500
    assert ask(worker)[0] == 200


def test_flaky_crashes_without_an_answer(app: Start) -> None:
    worker = app("flaky")
    assert worker.send(b"GET /x?fail=crash HTTP/1.0\r\n\r\n") == b""
    assert worker.process.wait(30) == 1


def test_flaky_hangs_until_it_is_killed(app: Start) -> None:
    worker = app("flaky")
    with worker.connect() as client:
        client.sendall(b"GET /x?fail=hang HTTP/1.0\r\n\r\n")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        worker.process.terminate()
        with pytest.raises(TimeoutError):
            client.recv(1)
        worker.process.kill()
    assert worker.process.wait(30) == -signal.SIGKILL


def test_flaky_sends_a_slow_body_whole_but_in_pieces(app: Start) -> None:
    worker = app("flaky")
    with worker.connect() as client:
        client.sendall(b"GET /x?fail=slow HTTP/1.0\r\n\r\n")
        received, pieces = b"", 0
        while data := client.recv(65536):
            received, pieces = received + data, pieces + 1
    body = received.partition(b"\r\n\r\n")[2]
    assert json.loads(body)["fine"] is True
    assert pieces > len(body) / 2


def test_flaky_takes_kind_and_rate_from_its_environment_and_a_request_may_say_otherwise(app: Start) -> None:
    never = app("flaky", FLAKY_FAIL="status", FLAKY_RATE="0")
    always = app("flaky", FLAKY_FAIL="status")
    assert [ask(never)[0], ask(never, "rate=1")[0]] == [200, 500]
    assert [ask(always)[0], ask(always, "rate=0")[0]] == [500, 200]


def test_flaky_names_the_ways_to_fail_when_asked_for_another(app: Start) -> None:
    status, document = ask(app("flaky"), "fail=x")
    assert (status, document["error"]) == (400, "found fail=x, expected status, crash, hang or slow")


def test_leaky_grows_by_what_was_asked_and_never_shrinks(app: Start) -> None:
    worker = app("leaky")
    first = ask(worker, "kb=0")[1]
    sizes = [ask(worker, "kb=10000")[1] for _ in range(3)]
    assert [size["leaked_bytes"] for size in sizes] == [10_240_000, 20_480_000, 30_720_000]
    assert sizes[2]["rss_bytes"] - first["rss_bytes"] >= 30_000_000


def test_counter_counts_for_each_worker_alone(app: Start) -> None:
    one, other = app("counter"), app("counter")
    assert [ask(one)[1]["count"] for _ in range(3)] == [1, 2, 3]
    assert ask(other)[1]["count"] == 1


def test_a_lesson_app_answers_one_request_at_a_time(app: Start) -> None:
    worker = app("sleepy")
    order: list[str] = []
    with worker.connect() as slow:
        slow.sendall(b"GET /x?ms=1000 HTTP/1.0\r\n\r\n")
        behind = threading.Thread(target=lambda: (ask(worker, "ms=500"), order.append("second")))
        slow_reader = threading.Thread(target=lambda: (slow.rest(), order.append("first")))
        slow_reader.start()
        behind.start()
        slow_reader.join()
        behind.join()
    assert order == ["first", "second"]
