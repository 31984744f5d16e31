"""What a process is doing, seen from outside."""

import asyncio
import subprocess
import sys

import pytest

from lab.core.clock import SystemClock
from lab.pool import procfs, stacks
from lab.pool.spawner import Spawner

WAITS = "import sys, time\n\ndef lingers():\n    open(sys.argv[1], 'w').close()\n    time.sleep(60)\n\nlingers()\n"


@pytest.fixture
async def spawner():
    one = Spawner(SystemClock())
    one.attach(asyncio.get_running_loop(), lambda text: None, lambda count: None)
    yield one
    await one.close()


def asleep(*argv):
    """A process, as soon as it sleeps."""
    with subprocess.Popen(argv) as process:
        while (found := procfs.stat(process.pid)) is None or found.state != "S":
            pass
        yield process.pid
        process.kill()


@pytest.fixture
def waiting(tmp_path):
    here = tmp_path / "here"
    with subprocess.Popen([sys.executable, "-c", WAITS, str(here)]) as process:
        while not here.exists():
            pass
        yield process.pid
        process.kill()


@pytest.fixture
def sleeping():
    yield from asleep("sleep", "60")


@pytest.fixture
def gone():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


async def test_of_a_program_that_is_not_python_the_kernel_says_in_which_call_it_waits(spawner, sleeping):
    seen = await stacks.look(sleeping, spawner)
    assert seen.seen_by == "kernel"
    assert seen.lines[0] == "It sleeps until something happens."
    assert any("nanosleep" in line for line in seen.lines[1:]) or len(seen.lines) == 1  # the rest is for who may trace


async def test_a_process_that_is_gone_has_an_empty_stack(spawner, gone):
    assert (await stacks.look(gone, spawner)).lines == ()


async def test_the_stack_of_a_python_program_is_told_by_name(spawner, waiting):
    seen = await stacks.look(waiting, spawner)
    assert seen.seen_by == "py-spy"
    assert any("lingers" in line for line in seen.lines)
