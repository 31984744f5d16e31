"""search: one interface in every language. A new language is a source file here and a few lines in languages.json.

What the interface promises holds in all of them. How strictly HTTP is read is judged where a sample reads it by itself:
a language's own HTTP library is taken as it is, and the lab's proxy sends it nothing doubtful.
"""

import json
import os
import random
import selectors
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import psutil
import pytest

from lab import paths
from lab.config.languages import load
from lab.core.model import Contract
from lab.pool.build import sources

pytestmark = pytest.mark.timeout(180)  # Go compiles its whole library where it never ran before: 16 s on two busy cores
LANGUAGES = load()
SEARCH = paths.content("samples") / "search"
FACTS = json.loads(f"[{(SEARCH / 'facts.inc').read_text().rstrip().rstrip(',')}]")
ASK = b"GET /?q=pidfd HTTP/1.1\r\nHost: x\r\n\r\n"
HTTP = (Contract.HTTP_PORT, Contract.HTTP_UNIX, Contract.HTTP_FD, Contract.HTTP_SHARED)
BY_LIBRARY = {"go", "java", "javascript"}
"""Languages whose own HTTP library reads the requests."""

WRITTEN = [name for name in LANGUAGES if any((SEARCH / name).glob("search.*"))]
SERVING = [name for name in WRITTEN if Contract.HTTP_PORT in LANGUAGES[name].start]
STRICT = [name for name in SERVING if name not in BY_LIBRARY]
PAIRS = [(name, contract) for name in WRITTEN for contract in LANGUAGES[name].start]
NAMES = [f"search-{name}" for name in SERVING]


@pytest.fixture(scope="module", params=SERVING)
def worker(request: pytest.FixtureRequest, shared_start: Any) -> Any:
    """One worker that serves all tests that do not end it."""
    return shared_start(f"search-{request.param}")


@pytest.fixture(params=SERVING)
def own(request: pytest.FixtureRequest, start: Any) -> Any:
    """A worker for one test."""
    return start(f"search-{request.param}")


@pytest.fixture(scope="module", params=STRICT)
def strict(request: pytest.FixtureRequest, shared_start: Any) -> Any:
    """A worker that reads HTTP by itself."""
    return shared_start(f"search-{request.param}")


def pairs(*contracts: Contract) -> Any:
    """Each language with each of these contracts that it keeps."""
    chosen = [pair for pair in PAIRS if pair[1] in contracts]
    return pytest.mark.parametrize(("language", "contract"), chosen, ids=lambda part: str(part))


def source(language: str) -> Path:
    return next((SEARCH / language).glob("search.*"))


def expected(query: str) -> list[str]:
    """The facts that a query has to find."""
    words = query.lower().split()
    return [fact for fact in FACTS if words and all(word in fact.lower() for word in words)][:5]


def found(worker: Any, query: str) -> dict[str, Any]:
    status, body = worker.ask(f"/api/search?q={query}")
    assert status == 200
    return dict(json.loads(body))


def test_there_is_a_search_in_every_language_of_the_lab() -> None:
    lacking = [name for name in LANGUAGES if name not in WRITTEN and name != "php-fpm"]
    assert not lacking


def test_an_answer_names_query_results_pid_and_language(worker: Any) -> None:
    answer = found(worker, "zombie")
    assert list(answer) == ["query", "results", "pid", "language"]
    assert answer["query"] == "zombie"
    assert answer["pid"] == worker.process.pid
    assert answer["results"] == ["A zombie is a process that has ended and whose parent has not asked how."]
    assert f"search-{answer['language']}" in NAMES


@pytest.mark.parametrize(
    "query",
    ["", "test", "TEST", "the proxy", "a b", "a", "kernel ACCEPT", "no-such-word", "90 %", "= x", '"', "té", "  "],
)
def test_every_language_finds_the_same(worker: Any, query: str) -> None:
    answer = found(worker, quote_plus(query))
    assert (answer["query"], answer["results"]) == (query, expected(query))


def test_the_first_q_counts_among_other_parameters(worker: Any) -> None:
    answer = json.loads(worker.ask("/?a=b&q=accept&q=zombie&c=d")[1])
    assert (answer["query"], answer["results"]) == ("accept", expected("accept"))
    assert json.loads(worker.ask("/api/search")[1])["results"] == []


def test_whatever_is_asked_comes_back_as_valid_json(worker: Any) -> None:
    assert found(worker, "%22%5C%0A%09%3C%7F")["query"] == '"\\\n\t<\x7f'
    assert found(worker, "caf%C3%A9+%E2%82%AC+%F0%9F%90%99")["query"] == "café € 🐙"
    assert found(worker, "%01" * 500)["query"].startswith("\x01" * 255)
    for broken in (
        "%ff",
        "%C0%AF",
        "%ED%A0%80",
        "%F4%90%80%80",
        "%E2%82",
        "%80",
        "%F8%88%80%80%80",
    ):  # RFC 3629 section 3
        assert "\ufffd" in found(worker, broken)["query"]


@pytest.mark.parametrize("broken", ["%4", "%zz", "a%2"])
def test_a_broken_escape_finds_nothing_or_is_refused(worker: Any, broken: str) -> None:
    status, body = worker.ask(f"/?q={broken}")
    assert status == 400 or json.loads(body)["results"] == expected(broken) == []


def test_health_answers_200_and_says_nothing_of_facts(worker: Any) -> None:
    status, body = worker.ask("/health")
    assert status == 200
    assert json.loads(body) == {"status": "ok", "pid": worker.process.pid}


def test_the_answer_is_declared_as_json(worker: Any) -> None:
    head = worker.send(ASK).partition(b"\r\n\r\n")[0].lower()
    assert b"\r\ncontent-type: application/json" in head


def test_head_is_answered_without_a_body(worker: Any) -> None:
    answer = worker.send(b"HEAD /?q=pidfd HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")


def test_requests_that_come_at_once_are_answered_in_order(worker: Any) -> None:
    queries = [f"word{number}" for number in range(3000)]  # more than any worker's buffers hold
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
def test_a_body_is_never_taken_for_a_request(worker: Any, length: int) -> None:
    """It is skipped, or the request refused and the connection closed."""
    body = ASK * (length // len(ASK)) + b"x" * (length % len(ASK))
    with worker.connect() as client:
        try:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length + body + ASK)
            client.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass
        answer = client.rest()
    refused = answer.startswith(b"HTTP/1.1 4")
    assert answer.count(b"HTTP/1.1 ") in ((1, 2) if refused else (2,))


def test_connection_close_is_kept(worker: Any) -> None:
    with worker.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.rest().count(b"HTTP/1.1 200 OK") == 1


def test_nothing_is_answered_that_follows_connection_close(strict: Any) -> None:
    for request in (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"):
        with strict.connect() as client:
            client.sendall(request + ASK)
            answer = client.rest().lower()
        assert answer.count(b"http/1.1 200 ok") == 1
        assert b"\r\nconnection: close\r\n" in answer


def test_noise_is_refused_and_delays_nobody(worker: Any) -> None:
    assert not worker.send(b"\x16\x03\x01 hello\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert worker.ask("/health")[0] == 200


REFUSED = {
    "garbage": (b"\x16\x03\x01 hello\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\n", 400),
    "space before the colon": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\n", 400),
    "bare line feed": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\nContent-Length: 3\r\n\r\n", 400),
    "length behind a NUL": (b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\nContent-Length: 3\r\n\r\n", 400),
    "sign in a length": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n", 400),
    "two lengths": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 400),
    "length after none": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
    "a list of lengths": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\n", 400),
    "endless length": (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    "chunked": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "endless head": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5000, 431),
}


@pytest.mark.parametrize(("request_bytes", "status"), REFUSED.values(), ids=REFUSED)
def test_doubtful_framing_is_refused_and_what_follows_is_not_read(
    strict: Any, request_bytes: bytes, status: int
) -> None:
    answer = strict.send(request_bytes + ASK)
    assert answer.startswith(b"HTTP/1.1 4")
    assert int(answer[9:12]) in (status, 400, 405)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].startswith("expected ")


def test_a_client_that_reads_nothing_is_not_served_further_and_delays_nobody(strict: Any) -> None:
    before = memory(strict.process.pid)
    with strict.connect() as deaf:
        deaf.setblocking(False)
        try:
            while True:
                deaf.send(ASK * 1000)
        except BlockingIOError:
            pass
        assert strict.ask("/health")[0] == 200
        assert memory(strict.process.pid) - before < 48 * 1024 * 1024


def test_many_connections_stay_open_and_all_are_answered(worker: Any) -> None:
    clients = [worker.connect() for _ in range(100)]
    for client in clients:
        client.sendall(ASK)
    for client in clients:
        assert client.answers(1)[0][0] == 200
        client.close()


def test_no_descriptor_is_left_behind_by_clients_that_came_and_went(worker: Any) -> None:
    worker.ask("/health")
    before = worker.descriptors()
    for number in range(300):
        client = worker.connect()
        client.sendall(ASK[: number % len(ASK)])
        client.close()
    deadline = time.monotonic() + 60
    while worker.descriptors() > before + 5 and time.monotonic() < deadline:
        worker.ask("/health")
    assert worker.descriptors() <= before + 5


def test_sigterm_ends_an_idle_worker_with_0(own: Any) -> None:
    with own.connect() as idle:
        idle.sendall(ASK)
        idle.answers(1)
        assert own.stop() == 0
        assert idle.rest() == b""


def test_sigterm_while_clients_vanish_ends_it_with_0_too(own: Any) -> None:
    reset = struct.pack("ii", 1, 0)  # linger for no time: close sends RST
    clients = [own.connect() for _ in range(32)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        client.sendall(ASK * 20)
    for client in clients:
        client.close()
    assert own.stop() == 0


@pytest.mark.parametrize("language", [name for name in SERVING if name != "java"])
def test_sigterm_tears_no_answer(language: str, start: Any) -> None:
    """Eight clients ask without a pause; what each has got in the end is a number of whole answers.

    Java's own server cannot promise it: it closes connections on which a further request has come already, and the
    kernel then resets them, with the answer that is on its way. The gateway sends nothing to a worker that drains.
    """
    own = start(f"search-{language}")
    clients = [own.connect() for _ in range(8)]
    received = dict.fromkeys(clients, b"")
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
            client.sendall(ASK)
        answers = 0  # about: what comes at once is one
        while selector.get_map():
            for key, _ in selector.select(30):
                client = key.fileobj
                data = go_on(client)
                if not data:
                    selector.unregister(client)
                    client.close()
                received[client] += data
                answers += 1
                if answers == 100:
                    own.process.terminate()
    assert all(client.is_whole(data) for client, data in received.items())
    assert own.process.wait(30) == 0


def go_on(client: Any) -> bytes:
    """What has come; and one more request in return. Empty when the worker has ended the connection."""
    try:
        data = bytes(client.recv(65536))
        client.sendall(ASK if data else b"")
    except ConnectionError:
        return b""
    return data


@pytest.mark.parametrize("language", STRICT)
def test_sigterm_lets_a_request_finish_that_has_begun(start: Any, language: str) -> None:
    worker = start(f"search-{language}")
    with worker.connect() as client:
        client.sendall(ASK + ASK[:-5])
        client.answers(1)  # so it has read what came with it
        worker.process.terminate()
        while worker.connects():
            pass
        client.sendall(ASK[-5:])
        assert client.rest().startswith(b"HTTP/1.1 200 OK")
    assert worker.process.wait(30) == 0


@pytest.mark.parametrize("language", SERVING)
def test_sigterm_ends_it_also_while_clients_keep_coming(start: Any, language: str) -> None:
    worker = start(f"search-{language}")
    ended = threading.Event()

    def keep_coming() -> None:
        while not ended.is_set():
            worker.connects()

    clients = [threading.Thread(target=keep_coming) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        worker.process.terminate()
        assert worker.process.wait(60) == 0
    finally:
        ended.set()
        for client in clients:
            client.join()


def test_it_lives_on_when_it_was_frozen_and_thawed(worker: Any) -> None:
    worker.freeze()
    with worker.connect() as client:
        client.sendall(ASK)
        worker.process.send_signal(signal.SIGCONT)
        assert client.answers(1)[0][0] == 200


@pytest.mark.parametrize("name", [*NAMES, "auth-python"])
@pytest.mark.parametrize("port", ["", "0", "65536", "x", "-1", "12 "])
def test_a_wrong_port_is_named_and_nothing_is_started(programs: Any, name: str, port: str) -> None:
    done = run(programs.command(name, port=port))
    assert done.returncode > 0
    assert f"found port '{port}', expected 1 to 65535" in done.stderr


@pytest.mark.parametrize("name", [*NAMES, "auth-python"])
def test_a_taken_port_ends_it_with_the_kernels_reason(programs: Any, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(programs.command(name, port=str(taken.getsockname()[1])))
    assert done.returncode > 0
    assert "address already in use" in done.stderr.lower()


@pytest.mark.parametrize("name", [*NAMES, "auth-python"])
def test_the_port_may_come_by_the_environment(programs: Any, name: str) -> None:
    done = run(programs.command(name, port="-")[:-1], PORT="99999")
    assert "found port '99999'" in done.stderr


def run(command: tuple[str, ...], **environment: str) -> subprocess.CompletedProcess[str]:
    """What a sample says that ends by itself."""
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, timeout=60, check=False, text=True
    )


@pairs(*HTTP)
def test_every_contract_is_kept_until_sigterm(start: Any, language: str, contract: Contract) -> None:
    worker = start(f"search-{language}", contract)
    for _ in range(2):
        answer = found(worker, "pidfd")
        assert (answer["pid"], answer["results"]) == (worker.process.pid, expected("pidfd"))
    assert worker.stop() == 0


@pairs(Contract.HTTP_FD)
def test_who_came_before_the_worker_or_after_it_waits_in_the_backlog(
    start: Any, language: str, contract: Contract
) -> None:
    with start.listening() as listener:
        for _ in range(2):
            with socket.create_connection(listener.getsockname(), 30) as early:
                early.sendall(ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                worker = start.inherit(f"search-{language}", contract, listener)
                assert early.recv(12) == b"HTTP/1.1 200"
            assert worker.stop() == 0


@pairs(Contract.HTTP_SHARED)
def test_workers_that_share_a_socket_both_serve_and_one_may_end(start: Any, language: str, contract: Contract) -> None:
    with start.listening() as listener:
        one = start.inherit(f"search-{language}", contract, listener)
        assert found(one, "pidfd")["pid"] == one.process.pid
        one.freeze()
        other = start.inherit(f"search-{language}", contract, listener)
    assert found(other, "pidfd")["pid"] == other.process.pid
    other.freeze()
    clients = [one.connect() for _ in range(8)]
    for client in clients:
        client.sendall(ASK)
    one.process.send_signal(signal.SIGCONT)
    other.process.send_signal(signal.SIGCONT)
    answers = [json.loads(client.answers(1)[0][1])["pid"] for client in clients]
    assert set(answers) <= {one.process.pid, other.process.pid}
    for client in clients:
        client.close()
    assert one.stop() == 0
    assert found(other, "pidfd")["pid"] == other.process.pid


@pairs(Contract.CGI)
@pytest.mark.parametrize("query", ["", "test", "the proxy", '"', "té", "no-such-word"])
def test_a_cgi_program_answers_one_request_and_ends(
    programs: Any, language: str, contract: Contract, query: str
) -> None:
    environment = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/api/search",
        "PATH_INFO": "",
        "QUERY_STRING": f"q={quote_plus(query)}",
        "SCRIPT_FILENAME": str(source(language)),
        "REDIRECT_STATUS": "200",  # php-cgi runs nothing without these two
    }
    command = programs.command(f"search-{language}", contract)
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, timeout=60, check=True)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    answer = json.loads(body)
    assert list(answer) == ["query", "results", "pid", "language"]
    assert (answer["query"], answer["results"], answer["language"]) == (query, expected(query), language)


def test_facts_fit_into_the_c_program_and_are_plain_ascii() -> None:
    assert all(fact.isascii() and fact.isprintable() and '"' not in fact and len(fact) < 160 for fact in FACTS)
    assert len(set(FACTS)) == len(FACTS)


def full(worker: Any) -> list[Any]:
    """As many connections as the C sample has places, each served."""
    clients = [worker.connect() for _ in range(256)]
    for client in clients:
        client.sendall(ASK)
        client.answers(1)
    return clients


@pytest.fixture
def bounded(start: Any) -> Any:
    """A worker that has a place for 256 clients."""
    return start("search-c")


def test_connections_beyond_its_places_wait_and_are_served_when_others_end(bounded: Any) -> None:
    first = full(bounded)
    with bounded.connect() as late, bounded.connect() as later:
        late.sendall(ASK)
        later.sendall(ASK)
        for client in first:
            client.close()
        assert late.answers(1)[0][0] == 200
        assert later.answers(1)[0][0] == 200


def test_a_full_worker_uses_no_processor_while_others_wait(bounded: Any) -> None:
    first = full(bounded)
    with bounded.connect():
        process = psutil.Process(bounded.process.pid)
        before = sum(process.cpu_times()[:2])
        time.sleep(0.3)  # a rate needs a span
        assert sum(process.cpu_times()[:2]) - before < 0.1
    for client in first:
        client.close()


def test_a_full_worker_ends_in_order_too(bounded: Any) -> None:
    first = full(bounded)
    with bounded.connect(), bounded.connect():
        assert bounded.stop() == 0
    for client in first:
        client.close()


@pytest.mark.compiler
def test_random_bytes_find_no_memory_error(tmp_path: Path, start: Any) -> None:
    """The C program under the address and the undefined-behaviour sanitizer, fed with damaged requests."""
    program = str(tmp_path / "search")
    source = str(paths.content("samples") / "search/c/search.c")
    flags = ("-g", "-O1", "-std=c17", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    subprocess.run(("cc", *flags, "-o", program, source), check=True, timeout=60)
    port = start.reserve()
    worker = start.run((program, str(port)), ("127.0.0.1", port))
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


@pytest.mark.parametrize("language", ["c", "cpp", "rust"])
def test_an_edit_of_the_facts_is_an_edit_of_the_programs_that_compile_them_in(language: str) -> None:
    assert SEARCH / "facts.inc" in sources(source(language))
