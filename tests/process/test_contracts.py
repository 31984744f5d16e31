"""Every contract by which a worker gets its socket, with real processes."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab.config.languages import Language
from lab.core.events import EventKind
from lab.core.model import AppSpec, Contract, Wire
from lab.core.states import WorkerState
from lab.pool import sockdiag
from tests.process.conftest import PATIENCE, Bench

_S = WorkerState
START = ("{tool}", "-u", "{source}")
ITSELF = Language(
    name="itself",
    title="Python",
    tools=("{python}",),
    version=("{tool}", "--version"),
    build=None,
    start={
        Contract.HTTP_PORT: (*START, "{port}"),
        Contract.HTTP_UNIX: (*START, "{socket}"),
        Contract.HTTP_FD: START,
        Contract.HTTP_SHARED: START,
        Contract.FASTCGI: START,
    },
    hint="",
    files=(".py",),
)
NOTIFIES = msgspec.structs.replace(ITSELF, name="notifies", notifies=True, env={"FROM_ITS_LANGUAGE": "yes"})

FINDS_ITS_SOCKET = """
import os, socket, sys, time
if os.environ.get("LISTEN_PID") == str(os.getpid()):
    server = socket.socket(fileno=3)
elif "SOCKET" in os.environ:
    server = socket.socket(socket.AF_UNIX)
    server.bind(sys.argv[1])
    server.listen()
else:
    server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
"""
ANSWERS_WITH_ITS_PID = """
while True:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n%d" % os.getpid())
"""
SERVES = FINDS_ITS_SOCKET + ANSWERS_WITH_ITS_PID
SAYS_READY = """
if "NOTIFY_SOCKET" in os.environ:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"STATUS=here\\nREADY=1", os.environ["NOTIFY_SOCKET"])
"""
WAITS_AT_ITS_GATE = """
while "GATE" in os.environ and not os.path.exists(os.environ["GATE"]):
    time.sleep(0.005)
"""
ANSWERS_GET_VALUES = """
import os, socket, struct
server = socket.socket(fileno=0)
while True:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        value = b"\\x0e\\x01FCGI_MAX_CONNS1"
        connection.sendall(struct.pack(">BBHHBB", 1, 10, 0, len(value), 0, 0) + value)
        connection.recv(1)
"""


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path, {"itself": ITSELF, "notifies": NOTIFIES})
    bench.spawner.launch()
    await bench.pool.start()
    yield bench
    await asyncio.wait_for(bench.pool.close(), PATIENCE)


def app(bench: Bench, protocol: str, text: str = SERVES, language: str = "itself", **pool: Any) -> AppSpec:
    spec = bench.app(text, language="python", **pool)
    return msgspec.structs.replace(spec, language=language, protocol=Contract(protocol))


async def ask(endpoint: Any) -> int:
    """The PID that answers there."""
    if endpoint.path:
        reader, writer = await asyncio.open_unix_connection(endpoint.path)
    else:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    return int(answer.rpartition(b"\r\n")[2])


@pytest.mark.parametrize("protocol", ["http-port", "http-unix", "http-fd", "http-shared"])
@pytest.mark.parametrize("language", ["itself", "notifies"])
async def test_a_worker_serves_where_its_contract_says(bench, protocol, language):
    await bench.pool.apply((app(bench, protocol, FINDS_ITS_SOCKET + SAYS_READY + ANSWERS_WITH_ITS_PID, language),))
    await bench.state(_S.READY)
    worker = bench.worker()
    assert await ask(worker.endpoint) == worker.pid
    assert worker.endpoint.wire is Wire.HTTP
    assert worker.endpoint.shared == (protocol == "http-shared")
    assert bool(worker.endpoint.path) == (protocol == "http-unix")


async def test_a_fastcgi_worker_inherits_its_socket_as_its_input_and_is_asked_for_its_values(bench):
    wide = msgspec.structs.replace(bench.strict(app(bench, "fastcgi", ANSWERS_GET_VALUES)), concurrency=4)
    await bench.pool.apply((wide,))
    await bench.state(_S.READY)
    worker = bench.worker()
    assert (worker.endpoint.wire, worker.endpoint.concurrency) == (Wire.FASTCGI, 1)
    inode = sockdiag.unix_listener(worker.endpoint.path)
    assert str(Path(f"/proc/{worker.pid}/fd/0").readlink()) == f"socket:[{inode}]"
    os.kill(worker.pid, signal.SIGSTOP)
    await bench.state(_S.UNHEALTHY)
    os.kill(worker.pid, signal.SIGCONT)
    await bench.state(_S.READY, generation=1)


async def test_listen_pid_is_the_workers_own_and_it_inherits_nothing_else(bench):
    tells = FINDS_ITS_SOCKET + "print(os.environ['LISTEN_FDS'], *sorted(os.listdir('/proc/self/fd')), flush=True)\n"
    await bench.pool.apply((app(bench, "http-fd", tells + ANSWERS_WITH_ITS_PID),))
    await bench.state(_S.READY)
    await bench.until(lambda: bench.pool.output("app", 0) != ())
    count, *descriptors = bench.pool.output("app", 0)[0].split()
    assert count == "1"
    assert descriptors == ["0", "1", "2", "3", "4"]  # 4 is how it looks


async def test_the_workers_environment_has_what_its_language_and_its_app_add(bench):
    tells = "print(os.environ['FROM_ITS_LANGUAGE'], os.environ['COLOUR'], flush=True)\n"
    spec = app(bench, "http-fd", FINDS_ITS_SOCKET + tells + SAYS_READY + ANSWERS_WITH_ITS_PID, "notifies")
    await bench.pool.apply((msgspec.structs.replace(spec, env={"COLOUR": "green"}),))
    await bench.state(_S.READY)
    await bench.until(lambda: bench.pool.output("app", 0) == ("yes green",))


@pytest.mark.parametrize("protocol", ["http-fd", "fastcgi"])
async def test_what_arrives_while_a_worker_is_dead_waits_for_its_successor_and_none_is_refused(bench, protocol):
    program = {"http-fd": SERVES, "fastcgi": ANSWERS_GET_VALUES}[protocol]
    await bench.pool.apply((app(bench, protocol, program, backoff_initial=0.3, stable_after=60.0),))
    await bench.state(_S.READY)
    endpoint = bench.worker().endpoint
    os.kill(bench.worker().pid, signal.SIGKILL)
    await bench.state(_S.BACKOFF)
    with _connected(endpoint) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert await asyncio.get_running_loop().sock_recv(client, 65536)
    await bench.state(_S.READY, generation=2)
    assert _address(bench.worker().endpoint) == _address(endpoint)


@pytest.mark.parametrize("protocol", ["http-fd", "fastcgi"])
async def test_two_generations_at_once_have_a_socket_each_and_the_newer_one_becomes_the_slots(bench, protocol):
    program = {"http-fd": SERVES, "fastcgi": ANSWERS_GET_VALUES}[protocol]
    spec = app(bench, protocol, program)
    await bench.pool.apply((spec,))
    await bench.state(_S.READY)
    first = bench.worker().endpoint
    await bench.pool.apply((msgspec.structs.replace(spec, env={"COLOUR": "green"}),))
    await bench.state(_S.EXITED, generation=1)
    second = bench.worker().endpoint
    assert _address(second) != _address(first)
    with pytest.raises(OSError, match=r"refused|No such file"):
        _connected(first)
    bench.pool.signal(bench.worker().worker, signal.SIGKILL)
    await bench.state(_S.READY, generation=3)
    assert _address(bench.worker().endpoint) == _address(second)


async def test_a_worker_that_shares_a_socket_is_ready_only_when_it_accepts_itself(bench):
    gate = bench.folder / "gate"
    spec = app(bench, "http-shared", FINDS_ITS_SOCKET + WAITS_AT_ITS_GATE + ANSWERS_WITH_ITS_PID)
    await bench.pool.apply((spec,))
    await bench.state(_S.READY)
    first = bench.worker().endpoint
    await bench.pool.apply((msgspec.structs.replace(spec, env={"GATE": str(gate)}),))
    await bench.state(_S.STARTING, generation=2)
    await bench.until(lambda: any("The other workers" in worker.why for worker in bench.view().workers))
    assert bench.count(_S.READY) == 1
    gate.touch()
    await bench.state(_S.READY, generation=2)
    assert _address(bench.worker().endpoint) == _address(first)


async def test_in_a_crowd_that_shares_a_socket_each_gets_ready_though_few_of_its_connections_come_to_it(bench):
    polls = "import select\nserver.setblocking(False)\n"
    wakes_with_all = ANSWERS_WITH_ITS_PID.replace(
        "    connection, _ = server.accept()\n",
        "    select.select([server], [], [])\n"
        "    try:\n        connection, _ = server.accept()\n    except BlockingIOError:\n        continue\n"
        "    connection.setblocking(True)\n",
    )
    crowd = FINDS_ITS_SOCKET + polls + wakes_with_all
    await bench.pool.apply((app(bench, "http-shared", crowd, max_workers=12, start_timeout=30.0),))
    await bench.until(lambda: [one.state for one in bench.view().workers] == [_S.READY] * 12)
    assert bench.count(_S.EXITED) == 0


async def test_a_pool_that_shares_a_socket_keeps_it_while_all_its_workers_die(bench):
    await bench.pool.apply((app(bench, "http-shared", max_workers=2, backoff_initial=0.3, stable_after=60.0),))
    for slot in range(2):
        await bench.state(_S.READY, slot=slot)
    endpoint = bench.worker().endpoint
    for worker in bench.view().workers:
        os.kill(worker.pid, signal.SIGKILL)
    for slot in range(2):
        await bench.state(_S.BACKOFF, slot=slot)
    answered = await ask(endpoint)
    for slot in range(2):
        await bench.state(_S.READY, slot=slot, generation=2)
    assert answered in {worker.pid for worker in bench.view().workers}


async def test_a_shared_worker_that_hangs_is_not_judged_for_the_kernel_asks_another(bench):
    await bench.pool.apply((bench.strict(app(bench, "http-shared", max_workers=2)),))
    for slot in range(2):
        await bench.state(_S.READY, slot=slot)
    bench.pool.signal(bench.worker().worker, signal.SIGSTOP)
    await bench.kind(EventKind.STOPPED)
    assert await ask(bench.worker().endpoint) == bench.view().workers[1].pid
    assert bench.count(_S.UNHEALTHY) == 0


async def test_ready_is_believed_only_of_a_process_of_the_workers_own_session(bench):
    never = FINDS_ITS_SOCKET + "print(os.environ['NOTIFY_SOCKET'], flush=True)\ntime.sleep(1000)\n"
    await bench.pool.apply((app(bench, "http-fd", never, "notifies"),))
    await bench.until(lambda: bench.pool.output("app", 0) != ())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as liar:
        liar.sendto(b"READY=1", bench.pool.output("app", 0)[0])
    process = await bench.pool.run("shell", ("sh", "-c", "true"), {}, None, lambda line: None)
    await process.wait()
    assert bench.worker().state is _S.STARTING
    assert bench.worker().why == "It has not said READY=1 yet."


async def test_a_worker_that_says_ready_but_does_not_listen_is_not_ready(bench):
    says = "import os, socket, time\n" + SAYS_READY + "time.sleep(1000)\n"
    await bench.pool.apply((app(bench, "http-unix", says, "notifies"),))
    await bench.until(lambda: "does not listen" in bench.worker().why)
    assert bench.count(_S.READY) == 0


async def test_a_unix_socket_that_its_worker_left_behind_is_removed(bench):
    await bench.pool.apply((app(bench, "http-unix"),))
    await bench.state(_S.READY)
    path = Path(bench.worker().endpoint.path)
    bench.pool.signal(bench.worker().worker, signal.SIGKILL)
    await bench.state(_S.READY, generation=2)
    assert not path.exists()
    folder = path.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    await bench.pool.close()
    assert not folder.exists()


async def test_a_slot_that_is_scaled_away_refuses_connections(bench):
    spec = app(bench, "http-fd", backoff_initial=60.0, stable_after=60.0)
    await bench.pool.apply((spec,))
    await bench.state(_S.READY)
    endpoint = bench.worker().endpoint
    os.kill(bench.worker().pid, signal.SIGKILL)
    await bench.state(_S.BACKOFF)
    _connected(endpoint).close()
    await bench.pool.apply((msgspec.structs.replace(spec, pool=msgspec.structs.replace(spec.pool, max_workers=0)),))
    with pytest.raises(ConnectionRefusedError):
        _connected(endpoint)


async def test_another_contract_comes_worker_by_worker(bench):
    await bench.pool.apply((app(bench, "http-fd"),))
    await bench.state(_S.READY)
    await bench.pool.apply((app(bench, "http-unix"),))
    await bench.state(_S.READY, generation=2)
    await bench.state(_S.EXITED, generation=1)
    assert bench.worker().endpoint.path


async def test_a_contract_that_the_language_does_not_keep_makes_the_app_unavailable(bench):
    await bench.pool.apply((app(bench, "cgi"),))
    await bench.kind(EventKind.APP_STATUS)
    assert "do not keep the contract cgi; expected: http-port" in bench.view().unavailable


def _address(endpoint: Any) -> tuple[str, int, str]:
    return endpoint.host, endpoint.port, endpoint.path


def _connected(endpoint: Any) -> socket.socket:
    client = socket.socket(socket.AF_UNIX if endpoint.path else socket.AF_INET)
    client.connect(endpoint.path or (endpoint.host, endpoint.port))
    client.setblocking(False)
    return client


@pytest.mark.parametrize("protocol", ["http-port", "http-unix", "http-fd"])
async def test_a_frozen_worker_finds_one_question_when_it_is_thawed_and_is_well_by_answering_the_next(bench, protocol):
    says = "    print('asked', flush=True)\n    with connection:\n"
    counts = ANSWERS_WITH_ITS_PID.replace("    with connection:\n", says)
    await bench.pool.apply((bench.strict(app(bench, protocol, FINDS_ITS_SOCKET + counts)),))
    await bench.state(_S.READY)
    bench.pool.signal(bench.worker().worker, signal.SIGSTOP)
    await bench.state(_S.UNHEALTHY)
    asked = len(bench.pool.output("app", 0))
    since = bench.clock.monotonic()
    await bench.until(lambda: bench.clock.monotonic() - since > 1.1)  # some three intervals and timeouts more
    thawed = bench.events.next
    bench.pool.signal(bench.worker().worker, signal.SIGCONT)
    await bench.state(_S.READY, thawed)
    assert len(bench.pool.output("app", 0)) <= asked + 2  # one of them may have been on its way


async def test_a_question_that_a_dead_worker_left_in_the_queue_does_not_kill_its_successor(bench):
    flag = str(bench.folder / "flag")
    dies_first = f"""
import os, time
if not os.path.exists({flag!r}):
    time.sleep(0.05)
    os.mkdir({flag!r})
    raise SystemExit(1)
"""
    await bench.pool.apply((app(bench, "fastcgi", dies_first + ANSWERS_GET_VALUES),))
    await bench.state(_S.READY, generation=2)
    assert bench.count(_S.EXITED) == 1
