"""search: one interface, two languages, and every promise holds in both."""

import json
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from lab import paths

Start = Callable[..., Any]

FACTS = paths.content("samples") / "search" / "facts.inc"
ASK = b"GET /?q=pidfd HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(params=["search-c", "search-python"])
def worker(request: pytest.FixtureRequest, start: Start) -> Any:
    return start(request.param)


def found(worker: Any, query: str) -> dict[str, Any]:
    status, body = worker.ask(f"/api/search?q={query}")
    assert status == 200
    return dict(json.loads(body))


def test_an_answer_names_query_results_pid_and_language(worker: Any) -> None:
    answer = found(worker, "zombie")
    assert list(answer) == ["query", "results", "pid", "language"]
    assert answer["query"] == "zombie"
    assert answer["pid"] == worker.process.pid
    assert answer["results"] == ["A zombie is a process that has ended and whose parent has not asked how."]


@pytest.mark.compiler
def test_both_languages_find_the_same(start: Start) -> None:
    c, python = start("search-c"), start("search-python")
    for query in (
        "",
        "test",
        "TEST",
        "the+proxy",
        "a%20b",
        "%22",
        "no-such-word",
        "t%c3%a9",
        "=",
        "x&q=y",
        "%",
        "%4",
        "%zz",
    ):
        one, other = found(c, query), found(python, query)
        assert (one["query"], one["results"]) == (other["query"], other["results"])
    assert len(found(c, "a")["results"]) == 5
    assert found(c, "kernel+ACCEPT")["results"]
    assert not found(c, "")["results"]


def test_whatever_is_asked_comes_back_as_valid_json(worker: Any) -> None:
    assert found(worker, "%22%5C%0A%09%3C%7F")["query"] == '"\\\n\t<\x7f'
    assert found(worker, "caf%C3%A9+%E2%82%AC+%F0%9F%90%99")["query"] == "café € 🐙"
    assert found(worker, "%ff")["query"] == "\ufffd"
    for broken in ("%C0%AF", "%ED%A0%80", "%F4%90%80%80", "%E2%82", "%80", "%F8%88%80%80%80"):  # RFC 3629 section 3
        assert "\ufffd" in found(worker, broken)["query"]
    assert found(worker, "%01" * 500)["query"].startswith("\x01" * 255)


def test_health_answers_200_and_says_nothing_of_facts(worker: Any) -> None:
    status, body = worker.ask("/health")
    assert status == 200
    assert json.loads(body) == {"status": "ok", "pid": worker.process.pid}


def test_head_is_answered_without_a_body(worker: Any) -> None:
    answer = worker.send(b"HEAD /?q=pidfd HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert int(answer.split(b"Content-Length: ")[1].split(b"\r\n")[0]) > 50


def test_requests_that_come_at_once_are_answered_in_order(worker: Any) -> None:
    queries = [f"word{number}" for number in range(300)]
    with worker.connect() as client:
        client.sendall(b"".join(f"GET /?q={query} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for query in queries))
        answers = client.answers(len(queries))
    assert [json.loads(body)["query"] for _, body in answers] == queries


def test_a_request_may_come_byte_by_byte(worker: Any) -> None:
    with worker.connect() as client:
        for byte in ASK * 2:
            client.sendall(bytes((byte,)))
        assert [status for status, _ in client.answers(2)] == [200, 200]


@pytest.mark.parametrize("length", [1, 100, 8192, 300_000])
def test_a_body_is_skipped_and_the_next_request_is_read_behind_it(worker: Any, length: int) -> None:
    body = ASK * (length // len(ASK)) + b"x" * (length % len(ASK))
    with worker.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length + body + ASK)
        assert [status for status, _ in client.answers(2)] == [200, 200]


def test_no_answer_before_the_body_has_come_except_100_continue(worker: Any) -> None:
    with worker.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"12345")
        assert client.answers(1)[0][0] == 200


def test_connection_close_is_announced_and_kept(worker: Any) -> None:
    for request in (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"):
        with worker.connect() as client:
            client.sendall(request + ASK)
            answer = client.rest()
            assert answer.count(b"HTTP/1.1 200 OK") == 1
            assert b"\r\nConnection: close\r\n" in answer


REFUSED = {
    "garbage": (b"\x16\x03\x01 hello\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    "space before the colon": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\n", 400),
    "folded line": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
    "bare line feed": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\nContent-Length: 3\r\n\r\n", 400),
    "bare carriage return": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400),
    "NUL": (b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", 400),
    "empty name": (b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", 400),
    "sign in a length": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n", 400),
    "two lengths": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 400),
    "a list of lengths": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\n", 400),
    "endless length": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    "chunked": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "endless head": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5000, 431),
}


@pytest.mark.parametrize(("request_bytes", "status"), REFUSED.values(), ids=REFUSED)
def test_doubtful_framing_is_refused_and_what_follows_is_not_read(
    worker: Any, request_bytes: bytes, status: int
) -> None:
    answer = worker.send(request_bytes + ASK)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].startswith("expected ")


def test_a_client_that_reads_nothing_is_not_served_further_and_delays_nobody(worker: Any) -> None:
    with worker.connect() as deaf:
        deaf.setblocking(False)
        try:
            while True:
                deaf.send(ASK * 1000)
        except BlockingIOError:
            pass
        assert worker.ask("/health")[0] == 200
        assert memory(worker.process.pid) < 64 * 1024 * 1024


def test_many_connections_stay_open_and_all_are_answered(worker: Any) -> None:
    clients = [worker.connect() for _ in range(200)]
    for client in clients:
        client.sendall(ASK)
    for client in clients:
        assert client.answers(1)[0][0] == 200
        client.close()


def full(worker: Any) -> list[Any]:
    """As many connections as it has places, each served."""
    clients = [worker.connect() for _ in range(256)]
    for client in clients:
        client.sendall(ASK)
        client.answers(1)
    return clients


def test_connections_beyond_its_places_wait_and_are_served_when_others_end(worker: Any) -> None:
    first = full(worker)
    with worker.connect() as late, worker.connect() as later:
        late.sendall(ASK)
        later.sendall(ASK)
        for client in first:
            client.close()
        assert late.answers(1)[0][0] == 200
        assert later.answers(1)[0][0] == 200


def test_a_full_worker_uses_no_processor_while_others_wait(worker: Any) -> None:
    first = full(worker)
    with worker.connect():
        process = psutil.Process(worker.process.pid)
        before = sum(process.cpu_times()[:2])
        time.sleep(0.3)  # a rate needs a span
        assert sum(process.cpu_times()[:2]) - before < 0.1
    for client in first:
        client.close()


def test_a_full_worker_ends_in_order_too(worker: Any) -> None:
    first = full(worker)
    with worker.connect(), worker.connect():
        assert worker.stop() == 0
    for client in first:
        client.close()


def test_no_descriptor_is_left_behind_by_clients_that_came_and_went(worker: Any) -> None:
    worker.ask("/health")
    before = worker.descriptors()
    for number in range(300):
        client = worker.connect()
        client.sendall(ASK[: number % len(ASK)])
        client.close()
    worker.ask("/health")
    worker.send(ASK)  # connections are taken in order: the others are closed when this one was answered
    assert worker.descriptors() <= before + 1


def test_sigterm_ends_an_idle_worker_at_once_with_0(worker: Any) -> None:
    with worker.connect() as idle:
        idle.sendall(ASK)
        idle.answers(1)
        assert worker.stop() == 0
        assert idle.rest() == b""


def test_sigterm_lets_a_request_finish_that_has_begun(worker: Any) -> None:
    with worker.connect() as client:
        client.sendall(ASK + b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12")
        client.answers(1)  # so it has read what came with it
        worker.process.terminate()
        while connects(worker):
            pass
        client.sendall(b"345")
        assert client.rest().startswith(b"HTTP/1.1 200 OK")
    assert worker.process.wait(5) == 0


def test_it_lives_on_when_it_was_frozen_and_thawed(worker: Any) -> None:
    worker.process.send_signal(signal.SIGSTOP)
    with worker.connect() as client:
        client.sendall(ASK)
        worker.process.send_signal(signal.SIGCONT)
        assert client.answers(1)[0][0] == 200


@pytest.mark.parametrize("name", ["search-c", "search-python", "auth-python"])
@pytest.mark.parametrize("port", ["", "0", "65536", "x", "-1", "12 "])
def test_a_wrong_port_is_named_and_nothing_is_started(
    programs: dict[str, tuple[str, ...]], name: str, port: str
) -> None:
    done = subprocess.run((*programs[name], port), capture_output=True, timeout=10, check=False, text=True)
    assert done.returncode > 0
    assert f"found port '{port}', expected 1 to 65535" in done.stderr


@pytest.mark.parametrize("name", ["search-c", "search-python", "auth-python"])
def test_a_taken_port_ends_it_with_the_kernels_reason(
    programs: dict[str, tuple[str, ...]], start: Start, name: str
) -> None:
    port = str(start("search-python").port)
    done = subprocess.run((*programs[name], port), capture_output=True, timeout=10, check=False, text=True)
    assert done.returncode > 0
    assert "Address already in use" in done.stderr


@pytest.mark.parametrize("name", ["search-c", "search-python", "auth-python"])
def test_the_port_may_come_by_the_environment(programs: dict[str, tuple[str, ...]], name: str) -> None:
    done = subprocess.run(
        programs[name], env={"PORT": "99999"}, capture_output=True, timeout=10, check=False, text=True
    )
    assert "found port '99999'" in done.stderr


def test_facts_fit_into_the_c_program_and_are_plain_ascii() -> None:
    facts = json.loads(f"[{FACTS.read_text().rstrip().rstrip(',')}]")
    assert all(fact.isascii() and fact.isprintable() and '"' not in fact and len(fact) < 160 for fact in facts)
    assert len(set(facts)) == len(facts)


@pytest.mark.compiler
def test_random_bytes_find_no_memory_error(tmp_path: Path, start: Start) -> None:
    """The C program under the address and the undefined-behaviour sanitizer, fed with damaged requests."""
    program = str(tmp_path / "search")
    source = str(paths.content("samples") / "search/c/search.c")
    flags = ("-g", "-O1", "-std=c17", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    subprocess.run(("cc", *flags, "-o", program, source), check=True, timeout=60)
    worker = start(program)
    chance = random.Random(7)
    for _ in range(400):
        with worker.connect() as client:
            try:
                for _ in range(chance.randint(1, 6)):
                    client.sendall(damaged(chance))
                client.shutdown(socket.SHUT_WR)
                client.rest()
            except (ConnectionResetError, BrokenPipeError):
                pass  # it may hang up on garbage
    assert worker.ask("/health")[0] == 200
    assert worker.stop() == 0


def damaged(chance: random.Random) -> bytes:
    """A request with some of its bytes changed, cut out or doubled; or noise."""
    target = bytes(chance.choices(b'/?&q=%+abc\xc3\xa9\xf0\x9f\xed\xa0\0"\\', k=chance.choice((3, 30, 600))))
    body = chance.choice((b"", b"Content-Length: 7\r\n", b"Content-Length: 70000\r\n", b"Expect: 100-continue\r\n"))
    data = bytearray(b"GET /?q=" + target + b" HTTP/1.1\r\nHost: x\r\n" + body + b"\r\n")
    if chance.random() < 0.1:
        return chance.randbytes(chance.choice((10, 1000, 20_000)))
    for _ in range(chance.choice((0, 0, 1, 3))):
        place = chance.randrange(len(data))
        data[place : place + chance.choice((0, 1, 4))] = chance.randbytes(chance.choice((0, 1, 2)))
    return bytes(data) * chance.choice((1, 1, 3, 40))


def memory(pid: int) -> int:
    """Bytes of physical memory that the process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def connects(worker: Any) -> bool:
    """Whether somebody listens."""
    try:
        worker.connect().close()
    except ConnectionError:  # refused, or reset when the socket closes in the middle of it
        return False
    return True
