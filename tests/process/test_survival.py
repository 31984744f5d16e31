"""Nothing outlives the lab, nothing leaks, and the pool outlives its fork server."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import msgspec
import pytest

from lab.core.events import EventKind
from lab.core.states import WorkerState
from lab.pool import forkserver, procfs
from tests.process.conftest import PATIENCE, Bench

_S = WorkerState
MARK = "CGILAB_TEST_MARK"
HAS_A_GRANDCHILD = """
import subprocess
subprocess.Popen(["sleep", "1000"], start_new_session=True)
subprocess.Popen(["sleep", "1000"])
"""
LAB = """
import asyncio, sys
from pathlib import Path
from lab.core.states import WorkerState
from tests.process.conftest import Bench

async def main():
    bench = Bench(Path(sys.argv[1]))
    bench.spawner.launch()
    await bench.pool.start()
    await bench.pool.apply((bench.app(Path(sys.argv[2]).read_text(), max_workers=3),))
    for slot in range(3):
        await bench.state(WorkerState.READY, slot=slot)
    print(bench.spawner.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def marked(mark: str) -> dict[int, int]:
    """A pidfd for each process that inherited the mark, by PID."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = os.pidfd_open(int(entry.name))
            except OSError:
                continue
    return found


def alive_after(handles: dict[int, int], seconds: float) -> list[int]:
    """Those that have not ended within `seconds`."""
    poll = select.poll()
    left = {handle: pid for pid, handle in handles.items()}
    for handle in left:
        poll.register(handle, select.POLLIN)
    deadline = time.monotonic() + seconds
    while left and (patience := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(patience * 1000):
            poll.unregister(handle)
            os.close(handle)
            del left[handle]
    return sorted(left.values())


@contextlib.contextmanager
def running_lab(folder: Path, program: str, mark: str):
    """A pool of three workers in a process of its own; yields that process and the PID of its fork server."""
    (folder / "program.py").write_text(program)
    lab = subprocess.Popen(
        [sys.executable, "-c", LAB, str(folder), str(folder / "program.py")],
        env=os.environ | {MARK: mark, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield lab, int(lab.stdout.readline())
    finally:
        lab.kill()
        lab.wait()
        lab.stdout.close()


def test_sigkill_of_the_lab_leaves_no_descendant(tmp_path):
    mark = uuid.uuid4().hex
    with running_lab(tmp_path, HAS_A_GRANDCHILD + Bench.PROGRAM, mark) as (lab, _):
        handles = marked(mark)
        assert len(handles) == 1 + 1 + 3 * 3
        lab.kill()
        assert alive_after(handles, PATIENCE) == []
    assert marked(mark) == {}


def test_workers_die_even_when_the_fork_server_dies_with_the_lab(tmp_path):
    mark = uuid.uuid4().hex
    with running_lab(tmp_path, Bench.PROGRAM, mark) as (lab, fork_server):
        handles = marked(mark)
        os.kill(fork_server, signal.SIGSTOP)
        lab.kill()
        lab.wait()
        os.kill(fork_server, signal.SIGKILL)
        assert alive_after(handles, PATIENCE) == []


async def test_after_sigkill_of_the_fork_server_nothing_is_left_of_it_and_the_pool_refills(bench):
    mark = uuid.uuid4().hex
    app = bench.app(HAS_A_GRANDCHILD + bench.PROGRAM, max_workers=2, stable_after=0.0)
    await bench.pool.apply((msgspec.structs.replace(app, env={MARK: mark}),))
    await bench.state(_S.READY, slot=0)
    await bench.state(_S.READY, slot=1)
    before = marked(mark)
    assert len(before) == 6
    killed = bench.spawner.pid
    os.kill(killed, signal.SIGKILL)
    replaced = await bench.kind(EventKind.FORKSERVER)
    assert alive_after(before, PATIENCE) == []
    for slot in range(2):
        await bench.state(_S.READY, replaced.seq, slot=slot)
    assert bench.spawner.pid not in (0, killed)
    now = marked(mark)
    assert len(now) == 6
    for handle in now.values():
        os.close(handle)


async def test_workers_are_told_to_be_gone_however_long_the_next_fork_server_takes(bench):
    await bench.pool.apply((bench.app(stable_after=0.0),))
    await bench.state(_S.READY)
    for generation in (1, 2):  # the second one dies young, so that the third waits
        since = bench.events.next
        os.kill(bench.spawner.pid, signal.SIGKILL)
        gone = await bench.state(_S.EXITED, since, generation=generation)
        assert bench.routes.routed == {}
        replaced = await bench.kind(EventKind.FORKSERVER, since)
        assert gone.seq < replaced.seq
        await bench.state(_S.READY, since, generation=generation + 1)


async def test_members_of_a_dead_workers_group_are_killed_and_reaped(bench):
    await bench.pool.apply((bench.app(HAS_A_GRANDCHILD + bench.PROGRAM),))
    await bench.state(_S.READY)
    worker = bench.worker()
    assert len(procfs.session_members(worker.pid)) == 2
    bench.pool.signal(worker.worker, signal.SIGKILL)
    await bench.seen(lambda event: event.kind is EventKind.NOTE and "orphaned" in event.text)
    await bench.until(lambda: procfs.session_members(worker.pid) == [])  # the one that left the group may be told first


@pytest.mark.timeout(300)
async def test_200_kills_leave_no_zombie_and_no_descriptor(bench):
    await bench.pool.apply((bench.app(),))
    since = (await bench.state(_S.READY)).seq
    before = _descriptors(os.getpid()), _descriptors(bench.spawner.pid), _entries("/proc/self/task")
    for _ in range(200):
        bench.pool.signal(bench.worker().worker, signal.SIGKILL)
        since = (await bench.state(_S.READY, since + 1)).seq
    await bench.until(lambda: _descriptors(os.getpid()) <= before[0])
    await bench.until(lambda: _descriptors(bench.spawner.pid) == before[1])
    assert _entries("/proc/self/task") < before[2] + 10  # an executor may begin one of its few threads late
    await bench.until(lambda: forkserver.children(bench.spawner.pid) == [bench.worker().pid])
    await bench.until(lambda: bench.pool.observe().zombies == 0)


async def test_every_process_leads_a_session_of_its_own_and_inherits_three_descriptors(bench):
    process = await bench.pool.run("sleeper", ("sleep", "1000"), {}, None, lambda line: None)
    assert os.getsid(process.pid) == process.pid
    inherited = Path(f"/proc/{process.pid}/fd")  # more while its libraries are loaded
    await bench.until(lambda: {entry.name for entry in inherited.iterdir()} == {"0", "1", "2"})
    assert str(Path(f"/proc/{process.pid}/fd/0").readlink()) == "/dev/null"


async def test_close_ends_everything_also_what_runs_beside_the_pool(bench):
    await bench.pool.apply((bench.app(),))
    await bench.state(_S.READY)
    process = await bench.pool.run("sleeper", ("sleep", "1000"), {}, None, lambda line: None)
    server = bench.spawner.pid
    await bench.pool.close()
    assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
    assert not Path(f"/proc/{server}").exists()
    assert bench.spawner.pid == 0


def _descriptors(pid: int) -> int:
    return _entries(f"/proc/{pid}/fd")


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())
