"""Workers that do what no worker should: each is an event with a cause, none is the lab's end, and nothing is left."""

import os
import signal
from pathlib import Path

import msgspec
import pytest

from lab.core.events import EventKind
from lab.core.model import Contract, ResourceLimits
from lab.core.states import Cause, WorkerState
from lab.pool import forkserver, sockdiag
from lab.pool.output import LINES_KEPT

_S = WorkerState
DAEMONISES = """
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
with open(sys.argv[0] + ".daemons", "a") as file:
    print(os.getpid(), file=file)
"""
STARTS_A_DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open(sys.argv[0] + ".daemons", "a") as file:
            print(os.getpid(), file=file)
        time.sleep(1000)
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[0] + ".daemons") or not os.path.getsize(sys.argv[0] + ".daemons"):
    time.sleep(0.001)
"""
CHANGES_ITS_GROUP = "import os\nif os.fork() == 0:\n    os.setpgid(0, 0)\n    import time\n    time.sleep(1000)\n"
SERVES_IN_ANOTHER_SESSION = "import os\nif os.fork():\n    os.wait()\n    os._exit(5)\nos.setsid()\n"
CLOSES_EVERYTHING = "import os\nos.closerange(0, 64)\n"
FLOODS = """
import os, threading
def flood():
    while True:
        os.write(1, b"x" * 65536 + b"\\n")
threading.Thread(target=flood, daemon=True).start()
"""
WRITES_BINARY = "import os\nos.write(2, bytes(range(256)) + b'\\x1b[2J\\x1b]0;owned\\x07\\xff\\xfe\\n')\n"
IGNORES_EVERYTHING = """
import signal
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
    signal.signal(number, signal.SIG_IGN)
"""


def daemons(spec) -> list[int]:
    """Those that were left behind, as they wrote it down themselves."""
    written = Path(spec.source + ".daemons")
    return [int(line) for line in written.read_text().split()] if written.exists() else []


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_a_worker_that_turns_into_a_daemon_counts_as_dead_and_the_daemon_is_ended(bench):
    spec = bench.app(DAEMONISES + bench.PROGRAM, intensity_failures=3)
    await bench.pool.apply((spec,))
    death = await bench.state(_S.EXITED)
    assert (death.cause, death.exit_code) == (Cause.CRASHED, 0)
    await bench.state(_S.FAILED)
    await bench.until(lambda: all(map(is_gone, daemons(spec))))
    await bench.until(lambda: forkserver.children(bench.spawner.pid) == [])
    assert bench.count(_S.READY) == 0


async def test_what_a_worker_left_behind_in_other_sessions_is_ended_with_it_and_not_before(bench):
    spec = bench.app(STARTS_A_DAEMON + bench.PROGRAM)
    other = bench.app(name="other")
    await bench.pool.apply((spec, other))
    await bench.state(_S.READY, app="app")
    await bench.state(_S.READY, app="other")
    (daemon,) = daemons(spec)
    bench.pool.signal(bench.worker("other").worker, signal.SIGKILL)
    await bench.state(_S.READY, app="other", generation=2)
    assert not is_gone(daemon)
    bench.pool.signal(bench.worker("app").worker, signal.SIGKILL)
    await bench.until(lambda: is_gone(daemon))
    await bench.seen(lambda event: event.kind is EventKind.NOTE and "orphaned" in event.text)


async def test_a_group_of_its_own_saves_no_child_of_a_dead_worker(bench):
    await bench.pool.apply((bench.app(CHANGES_ITS_GROUP + bench.PROGRAM),))
    await bench.state(_S.READY)
    (child,) = forkserver.children(bench.worker().pid)
    bench.pool.signal(bench.worker().worker, signal.SIGKILL)
    await bench.until(lambda: is_gone(child))


async def test_a_server_that_left_the_workers_session_is_not_the_worker(bench):
    spec = bench.app(SERVES_IN_ANOTHER_SESSION + bench.PROGRAM, start_timeout=2.0, intensity_failures=1)
    await bench.pool.apply((spec,))
    await bench.until(lambda: "belongs to another process" in bench.worker().why)
    death = await bench.state(_S.EXITED)
    assert (death.cause, death.signal) == (Cause.UNHEALTHY, "SIGKILL")
    assert bench.count(_S.READY) == 0


async def test_a_worker_that_closes_all_its_descriptors_still_serves_what_it_opens_itself(bench):
    await bench.pool.apply((bench.app(CLOSES_EVERYTHING + bench.PROGRAM),))
    await bench.state(_S.READY)


@pytest.mark.parametrize("protocol", [Contract.HTTP_FD, Contract.HTTP_SHARED])
async def test_a_worker_that_closes_the_socket_it_inherited_is_told_to_have_none(bench, protocol):
    spec = bench.app(CLOSES_EVERYTHING + "import time\ntime.sleep(1000)\n", start_timeout=2.0, intensity_failures=1)
    await bench.pool.apply((msgspec.structs.replace(bench.strict(spec), protocol=protocol),))
    await bench.until(lambda: "it does not hold it" in bench.worker().why)
    assert (await bench.state(_S.EXITED)).cause is Cause.UNHEALTHY


async def test_a_flood_of_output_slows_its_worker_and_not_the_lab(bench):
    await bench.pool.apply((bench.app(FLOODS + bench.PROGRAM), bench.app(name="calm")))
    await bench.state(_S.READY, app="app")
    await bench.state(_S.READY, app="calm")
    bench.pool.signal(bench.worker("calm").worker, signal.SIGKILL)
    await bench.kind(EventKind.HEALED)
    assert len(bench.pool.output("app", 0)) <= LINES_KEPT
    bench.pool.signal(bench.worker("app").worker, signal.SIGKILL)
    await bench.state(_S.READY, app="app", generation=2)


async def test_binary_output_reaches_the_log_as_it_is_and_the_screen_escaped(bench):
    await bench.pool.apply((bench.app(WRITES_BINARY + bench.PROGRAM),))
    await bench.state(_S.READY)
    await bench.until(lambda: len(bench.pool.output("app", 0)) == 2)
    assert all(line.isprintable() for line in bench.pool.output("app", 0))
    await bench.pool.close()
    assert (bench.folder / "logs" / "app-0.log").read_bytes().startswith(bytes(range(256)))


async def test_a_worker_that_leaves_its_unix_socket_behind_is_followed_by_one_with_a_socket_of_its_own(bench):
    program = bench.PROGRAM.replace("socket.socket()", "socket.socket(socket.AF_UNIX)")
    program = program.replace('("127.0.0.1", int(sys.argv[1]))', "sys.argv[1]")
    spec = msgspec.structs.replace(bench.app(program), protocol=Contract.HTTP_UNIX)
    await bench.pool.apply((spec,))
    await bench.state(_S.READY)
    first = Path(bench.worker().endpoint.path)
    os.kill(bench.worker().pid, signal.SIGKILL)
    await bench.state(_S.READY, generation=2)
    assert not first.exists()


async def test_a_port_taken_by_another_worker_is_no_crash_and_the_thief_is_not_ready_by_it(bench):
    ports = bench.folder / "ports"
    spec = bench.app(bench.PROGRAM)
    await bench.pool.apply((spec,))
    await bench.state(_S.READY)
    ports.write_text(str(bench.worker().endpoint.port))
    wrong = f"import sys\nsys.argv[1] = open({str(ports)!r}).read()\n"
    thief = bench.app(wrong + bench.PROGRAM, name="thief", intensity_failures=1)
    await bench.pool.apply((spec, thief))
    await bench.state(_S.FAILED, app="thief")
    assert bench.worker("app").state is _S.READY
    assert bench.worker("app").worker.generation == 1
    told = [event.text for event in bench.events.read().events if event.kind is EventKind.OUTPUT]
    assert any("Address already in use" in text for text in told)


async def test_one_that_listens_where_it_was_not_told_to_is_never_ready(bench, reserve):
    elsewhere = reserve()
    program = f"import sys\nsys.argv[1] = '{elsewhere}'\n" + bench.PROGRAM
    await bench.pool.apply((bench.app(program, start_timeout=2.0, intensity_failures=1),))
    await bench.until(lambda: sockdiag.listener(elsewhere) is not None)
    death = await bench.state(_S.EXITED)
    assert death.cause is Cause.UNHEALTHY
    assert bench.count(_S.READY) == 0


async def test_whatever_they_do_closing_the_pool_leaves_no_process(bench):
    rude = (DAEMONISES, STARTS_A_DAEMON, CHANGES_ITS_GROUP, FLOODS, IGNORES_EVERYTHING, SERVES_IN_ANOTHER_SESSION)
    specs = [
        bench.app(text + bench.PROGRAM, name=f"rude{number}", stop_timeout=0.2) for number, text in enumerate(rude)
    ]
    hungry = msgspec.structs.replace(
        bench.app("x = bytearray(1 << 34)\n", name="hungry"), resources=ResourceLimits(address_space=1 << 28)
    )
    await bench.pool.apply((*specs, hungry))
    for number in (1, 2, 3, 4):
        await bench.state(_S.READY, app=f"rude{number}")
    await bench.state(_S.EXITED, app="hungry")
    left = [pid for spec in specs for pid in daemons(spec)]
    server = bench.spawner.pid
    await bench.pool.close()
    assert is_gone(server)
    assert all(is_gone(pid) for pid in left)
