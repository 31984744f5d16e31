"""What a worker may take of the machine."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from lab.core.model import ResourceLimits
from lab.core.states import Cause, WorkerState
from lab.pool.spawner import Order
from tests.process.conftest import PATIENCE, Bench

_S = WorkerState
TELLS = """
import os, resource
names = ("RLIMIT_AS", "RLIMIT_NOFILE", "RLIMIT_CPU")
print(*(resource.getrlimit(getattr(resource, name)) for name in names), os.nice(0), flush=True)
"""

LAB = """
import asyncio, resource, sys
from pathlib import Path
from lab.core.model import ResourceLimits
from tests.process.conftest import PATIENCE, Bench
from tests.process.test_limits import told

async def main():
    bench = Bench(Path(sys.argv[1]))
    bench.spawner.launch()
    await bench.pool.start()
    print(await told(bench, ResourceLimits()), resource.getrlimit(resource.RLIMIT_NOFILE)[0], sep="\\n")
    await bench.pool.close()

asyncio.run(main())
"""


async def told(bench: Bench, limits: ResourceLimits) -> str:
    await bench.pool.apply((msgspec.structs.replace(bench.app(TELLS + bench.PROGRAM), resources=limits),))
    await bench.state(_S.READY)
    await bench.until(lambda: bench.pool.output("app", 0) != ())
    return bench.pool.output("app", 0)[0]


async def test_a_worker_has_the_limits_and_the_niceness_of_its_app(bench):
    limits = ResourceLimits(address_space=1 << 30, files=64, cpu_time=100, nice=5)
    assert await told(bench, limits) == f"({1 << 30}, {1 << 30}) (64, 64) (100, 101) {os.nice(0) + 5}"


def test_programs_have_the_open_files_that_the_lab_was_started_with_and_the_lab_takes_more(tmp_path):
    script = f"ulimit -Sn 512; exec {sys.executable} -c '{LAB}' {tmp_path}"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run(("sh", "-c", script), env=env, capture_output=True, text=True, timeout=100, check=True).stdout
    programs, labs = said.splitlines()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert f" (512, {hard}) " in programs
    assert int(labs) == min(hard, 64 * 1024)


async def test_a_limit_above_the_machines_own_is_the_machines_own(bench):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert f" ({hard}, {hard}) " in await told(bench, ResourceLimits(files=hard + 1))


async def test_a_worker_that_spends_its_cpu_time_is_ended_by_the_kernel_and_replaced(bench):
    burns = "import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start()\n"
    app = bench.app(burns + bench.PROGRAM, stable_after=0.0)
    await bench.pool.apply((msgspec.structs.replace(app, resources=ResourceLimits(cpu_time=1)),))
    death = await bench.state(_S.EXITED)
    assert (death.cause, death.signal) == (Cause.CRASHED, "SIGXCPU")
    await bench.state(_S.READY, death.seq)


async def test_a_worker_that_eats_up_its_memory_fails_alone_and_is_replaced(bench):
    eats = f"""
import os, threading
once = {str(bench.folder / "eaten")!r}
def eat():
    hoard = []
    try:
        while True:
            hoard.append(bytearray(16 << 20))
    except MemoryError:
        os._exit(9)
if not os.path.exists(once):
    os.mkdir(once)
    threading.Timer(0.05, eat).start()
"""
    app = bench.app(eats + bench.PROGRAM, stable_after=0.0)
    await bench.pool.apply((msgspec.structs.replace(app, resources=ResourceLimits(address_space=512 << 20)),))
    death = await bench.state(_S.EXITED)
    assert (death.cause, death.exit_code) == (Cause.CRASHED, 9)
    await bench.state(_S.READY, death.seq)


async def test_an_address_space_in_which_nothing_can_start_is_told_and_harms_nobody(bench):
    app = bench.app(intensity_failures=1)
    await bench.pool.apply((msgspec.structs.replace(app, resources=ResourceLimits(address_space=4096)),))
    await bench.state(_S.FAILED)
    await bench.pool.apply((bench.app(name="other"),))
    await bench.state(_S.READY, app="other")


async def test_changed_limits_come_worker_by_worker(bench):
    app = bench.app()
    await bench.pool.apply((app,))
    await bench.state(_S.READY)
    await bench.pool.apply((msgspec.structs.replace(app, resources=ResourceLimits(nice=3)),))
    ready = await bench.state(_S.READY, generation=2)
    assert (await bench.state(_S.EXITED, generation=1)).cause is Cause.RELOADED
    assert os.getpriority(os.PRIO_PROCESS, ready.pid) == os.nice(0) + 3


class Ended:
    """Waits for one process."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def forked(self, child): ...

    def refused(self, reason):
        self.status.set_exception(OSError(reason))

    def exited(self, status, at):
        self.status.set_result(status)

    def stopped(self, stopped, at): ...


async def test_what_a_service_manager_says_to_the_lab_its_programs_do_not_hear(bench, monkeypatch):
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"):
        monkeypatch.setenv(name, "1")
    os.kill(bench.spawner.pid, signal.SIGKILL)  # the next one is launched with these
    await bench.seen(lambda event: "was replaced" in event.text)
    ended = Ended()
    test = 'test -z "$NOTIFY_SOCKET$LISTEN_FDS$LISTEN_PID"'
    bench.spawner.fork(Order(argv=("sh", "-c", test)), ended)
    assert await asyncio.wait_for(ended.status, PATIENCE) == 0
