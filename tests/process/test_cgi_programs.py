"""A process for each request, with real processes."""

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from lab.core.errors import UnavailableError
from lab.core.events import EventKind
from lab.core.model import AppSpec, Contract, ResourceLimits, Wire, WorkerId
from lab.core.program import CgiProgram
from lab.pool import forkserver
from tests.process.conftest import PATIENCE, Bench

TELLS_ITS_ENVIRONMENT = """
import os, sys
sys.stdout.write("Content-Type: text/plain\\r\\n\\r\\n")
sys.stdout.write(repr((dict(os.environ), os.getcwd(), sorted(os.listdir("/proc/self/fd")), sys.stdin.read())))
"""
NEVER_ENDS = "import subprocess, time\nsubprocess.Popen(['sleep', '1000'])\ntime.sleep(1000)\n"
ENV = {"PATH": "/usr/bin:/bin", "REQUEST_METHOD": "GET", "QUERY_STRING": "a=1"}


def app(bench: Bench, text: str, workers: int = 2) -> AppSpec:
    return msgspec.structs.replace(bench.app(text, max_workers=workers), protocol=Contract.CGI)


async def routed(bench: Bench, spec: AppSpec) -> None:
    await bench.pool.apply((spec,))
    await bench.until(lambda: bool(bench.routes.routed))


async def answer(run: CgiProgram, body: bytes = b"") -> str:
    """Write the body and read to the end, as a proxy does."""
    os.write(run.stdin, body)
    os.close(run.stdin)
    with os.fdopen(run.stdout, "rb") as stdout:
        return (await asyncio.to_thread(stdout.read)).decode()


async def ended(run: CgiProgram) -> int:
    """Its exit status."""
    status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    run.on_end(status.set_result)
    return await status


async def test_an_app_without_workers_has_one_endpoint_with_room_for_max_workers(bench):
    spec = app(bench, TELLS_ITS_ENVIRONMENT)
    await routed(bench, spec)
    (endpoint,) = bench.routes.routed.values()
    assert (endpoint.wire, endpoint.concurrency, endpoint.worker) == (Wire.CGI, 2, WorkerId("app", 0, 0))
    view = bench.view()
    assert (view.workers, view.protocol, view.unavailable) == ((), Contract.CGI, None)
    await bench.pool.apply((app(bench, TELLS_ITS_ENVIRONMENT, workers=5),))
    assert [one.concurrency for one in bench.routes.routed.values()] == [5]


async def test_a_program_gets_exactly_the_environment_it_is_given_and_its_apps_own(bench):
    spec = msgspec.structs.replace(app(bench, TELLS_ITS_ENVIRONMENT), env={"COLOUR": "green"})
    await routed(bench, spec)
    script = bench.folder / "scripts" / "one.py"
    script.parent.mkdir()
    run = await bench.pool.cgi("app", ENV | {"SCRIPT_FILENAME": str(script)})
    env, folder, descriptors, body = eval((await answer(run, b"a body")).partition("\r\n\r\n")[2])
    assert env.pop("LC_CTYPE", "C.UTF-8") == "C.UTF-8"  # Python sets this itself where no locale is given
    assert env == ENV | {"COLOUR": "green", "SCRIPT_FILENAME": str(script)}
    assert folder == str(script.parent)
    assert descriptors == ["0", "1", "2", "3"]  # 3 is how it looks
    assert body == "a body"
    assert await ended(run) == 0


async def test_what_a_program_complains_of_goes_to_the_apps_log(bench):
    await routed(bench, app(bench, "import sys\nprint('out')\nprint('it hurts', file=sys.stderr)\nsys.exit(3)\n"))
    for count in (1, 2):
        run = await bench.pool.cgi("app", ENV)
        assert await answer(run) == "out\n"
        assert await ended(run) == 3
        await bench.until(lambda count=count: bench.pool.output("app", 0) == ("it hurts",) * count)


async def test_a_killed_run_takes_everything_with_it_that_it_started(bench):
    await routed(bench, app(bench, NEVER_ENDS))
    run = await bench.pool.cgi("app", ENV)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    await bench.until(lambda: children.read_text() != "")
    child = int(children.read_text())
    run.kill()
    assert await ended(run) == -signal.SIGKILL
    run.kill()
    await bench.until(lambda: not Path(f"/proc/{child}").exists())
    os.close(run.stdin)
    assert await answer_of_nobody(run) == b""


async def answer_of_nobody(run: CgiProgram) -> bytes:
    with os.fdopen(run.stdout, "rb") as stdout:
        return await asyncio.to_thread(stdout.read)


async def test_a_run_whose_request_is_given_up_while_it_starts_leaves_no_process_and_no_descriptor(bench):
    await routed(bench, app(bench, NEVER_ENDS))
    await answer_of_nobody_after_kill(await bench.pool.cgi("app", ENV))
    before = len(list(Path("/proc/self/fd").iterdir()))
    starting = asyncio.ensure_future(bench.pool.cgi("app", ENV))
    await asyncio.sleep(0)  # it is asked for now
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await (later := asyncio.ensure_future(bench.pool.cgi("app", ENV)))  # told of after the one that nobody wants
    await bench.until(lambda: forkserver.children(bench.spawner.pid) == [later.result().pid])
    await answer_of_nobody_after_kill(later.result())
    await bench.until(lambda: len(list(Path("/proc/self/fd").iterdir())) == before)


async def answer_of_nobody_after_kill(run: CgiProgram) -> None:
    run.kill()
    assert await ended(run) == -signal.SIGKILL
    os.close(run.stdin)
    os.close(run.stdout)


async def test_a_run_in_a_folder_that_is_gone_is_refused_and_the_next_one_starts_where_the_lab_is(bench):
    await routed(bench, app(bench, TELLS_ITS_ENVIRONMENT))
    with pytest.raises(UnavailableError, match="No such file"):
        await bench.pool.cgi("app", ENV | {"SCRIPT_FILENAME": str(bench.folder / "gone" / "one.py")})
    await answer(await bench.pool.cgi("app", ENV))
    process = await bench.pool.run("pwd", ("pwd", "-P"), {}, None, lambda line: None)
    await process.wait()
    assert process.last_words() == os.path.realpath(".")


async def test_when_the_fork_server_dies_its_runs_do_too(bench):
    await routed(bench, app(bench, NEVER_ENDS))
    run = await bench.pool.cgi("app", ENV)
    os.kill(bench.spawner.pid, signal.SIGKILL)
    assert await asyncio.wait_for(ended(run), PATIENCE) == -signal.SIGKILL
    os.close(run.stdin)
    os.close(run.stdout)


async def test_an_app_that_is_removed_lets_its_runs_finish_and_then_kills_them(bench):
    spec = app(bench, NEVER_ENDS)
    spec = msgspec.structs.replace(spec, pool=msgspec.structs.replace(spec.pool, drain_timeout=0.2))
    await routed(bench, spec)
    endpoint = next(iter(bench.routes.routed.values()))
    run = await bench.pool.cgi("app", ENV)
    assert bench.routes.acquire(endpoint)
    await bench.pool.apply(())
    assert not bench.routes.routed
    with pytest.raises(UnavailableError):
        await bench.pool.cgi("app", ENV)
    assert await asyncio.wait_for(ended(run), PATIENCE) == -signal.SIGKILL
    os.close(run.stdin)
    os.close(run.stdout)


async def test_limits_hold_for_programs_too(bench):
    spec = app(bench, "import resource\nprint(resource.getrlimit(resource.RLIMIT_CPU))\n")
    await routed(bench, msgspec.structs.replace(spec, resources=ResourceLimits(cpu_time=7)))
    assert await answer(await bench.pool.cgi("app", ENV)) == "(7, 8)\n"


async def test_an_app_that_changes_between_workers_and_programs_is_served_by_what_it_is_now(bench):
    await bench.pool.apply((bench.app(),))
    await bench.kind(EventKind.STATE)
    spec = app(bench, TELLS_ITS_ENVIRONMENT)
    await bench.pool.apply((spec,))
    await bench.until(lambda: any(one.wire is Wire.CGI for one in bench.routes.routed.values()))
    assert bench.view().protocol is Contract.CGI
    await bench.pool.apply((bench.app(),))
    await bench.until(lambda: [one.wire for one in bench.routes.routed.values()] == [Wire.HTTP])


async def test_a_program_that_cannot_be_prepared_makes_its_app_unavailable(bench):
    await bench.pool.apply((msgspec.structs.replace(app(bench, ""), source="/nowhere.py"),))
    await bench.kind(EventKind.APP_STATUS)
    assert "/nowhere.py" in bench.view().unavailable
    with pytest.raises(UnavailableError, match="nowhere"):
        await bench.pool.cgi("app", ENV)


async def test_too_much_environment_is_refused_and_leaves_no_descriptor_open(bench):
    await routed(bench, app(bench, "pass\n"))
    await ended(await bench.pool.cgi("app", ENV))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(UnavailableError, match="expected at most"):
        await bench.pool.cgi("app", ENV | {"HTTP_X": "x" * 200_000})
    await bench.until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)
