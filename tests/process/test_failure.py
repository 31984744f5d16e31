"""Programs that do not behave, and machines that lack something."""

import asyncio
import os
import signal
import socket

import msgspec
import psutil
import pytest

from lab.core.errors import UnavailableError
from lab.core.events import EventKind
from lab.core.model import Contract
from lab.core.states import Cause, WorkerState
from lab.pool import output, sockdiag
from lab.pool.readiness import StartProbe
from lab.pool.sockets import Binding
from lab.wire.question import Get
from tests.process.conftest import PATIENCE

_S = WorkerState

EXITS_AT_ONCE = "print('no database')\nraise SystemExit(3)\n"
SAYS_GARBAGE = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\\r\\n")
"""
NEVER_ANSWERS = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(1000)
"""
ANSWERS_500 = SAYS_GARBAGE.replace("SSH-2.0-OpenSSH_9.2", "HTTP/1.1 500 No\\r\\nContent-Length: 0\\r\\n")


async def test_a_program_that_exits_at_once_is_started_ever_less_often_and_then_given_up(bench):
    await bench.pool.apply((bench.app(EXITS_AT_ONCE, backoff_initial=0.05, intensity_failures=4),))
    failed = await bench.state(_S.FAILED)
    told = bench.events.read().events
    starts = [event.at for event in told if event.state is _S.STARTING]
    deaths = [event.at for event in told if event.state is _S.EXITED]
    assert len(starts) == 4
    for number, (death, start) in enumerate(zip(deaths, starts[1:], strict=False)):
        assert start - death >= 0.8 * 0.05 * 2**number - 0.005  # uvloop counts whole milliseconds
    assert "failed starts in a row" in bench.worker().why
    assert "waits" not in bench.worker().why, "the screen tells for how long, and counts down"
    half_open = await bench.state(_S.FAILED, failed.seq + 1)
    between = bench.events.read(failed.seq, half_open.seq - failed.seq).events
    assert [event.state for event in between].count(_S.STARTING) == 1


async def test_the_last_words_of_a_failed_start_are_told(bench):
    await bench.pool.apply((bench.app(EXITS_AT_ONCE),))
    assert (await bench.kind(EventKind.OUTPUT)).text == "no database"
    death = await bench.state(_S.EXITED)
    assert (death.cause, death.exit_code) == (Cause.CRASHED, 3)


async def test_one_failing_slot_leaves_the_others_serving(bench):
    flag = bench.folder / "taken"
    once = f"import os\ntry:\n    os.mkdir({str(flag)!r})\nexcept FileExistsError:\n    raise SystemExit(1)\n"
    await bench.pool.apply((bench.app(once + bench.PROGRAM, max_workers=2, intensity_failures=2),))
    await bench.state(_S.FAILED)
    await bench.until(lambda: sorted(worker.state for worker in bench.view().workers) == [_S.FAILED, _S.READY])
    flag.rmdir()
    assert bench.pool.heal() == 1
    await bench.until(lambda: all(worker.state is _S.READY for worker in bench.view().workers))


@pytest.mark.parametrize(
    ("program", "why"),
    [(SAYS_GARBAGE, "which is not HTTP"), (NEVER_ANSWERS, "did not answer"), (ANSWERS_500, "status 500")],
)
async def test_a_worker_that_never_answers_rightly_is_killed_after_start_timeout(bench, program, why):
    await bench.pool.apply((bench.strict(bench.app(program, start_timeout=2.0)),))
    await bench.state(_S.STARTING)
    await bench.until(lambda: why in bench.worker().why)
    death = await bench.state(_S.EXITED)
    assert (death.cause, death.signal) == (Cause.UNHEALTHY, "SIGKILL")
    assert bench.count(_S.READY) == 0


async def test_kills_through_the_lab_never_count_for_back_off(bench):
    await bench.pool.apply((bench.app(stable_after=60.0, intensity_failures=2),))
    since = 1
    for _ in range(5):
        ready = await bench.state(_S.READY, since)
        bench.pool.signal(bench.worker().worker, signal.SIGKILL)
        since = ready.seq + 1
    await bench.state(_S.READY, since)
    assert bench.count(_S.BACKOFF) == bench.count(_S.FAILED) == 0


async def test_early_deaths_of_outside_kills_wait_longer_each_time(bench):
    await bench.pool.apply((bench.app(stable_after=60.0, backoff_initial=0.02),))
    since = 1
    for _ in range(3):
        ready = await bench.state(_S.READY, since)
        os.kill(ready.pid, signal.SIGKILL)
        backoff = await bench.state(_S.BACKOFF, ready.seq)
        since = backoff.seq
    assert "3 deaths in" in backoff.text
    await bench.state(_S.READY, since)


async def test_a_healthy_foreign_process_on_the_port_does_not_make_a_worker_ready(bench):
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = foreign.getsockname()[1]
        answering = asyncio.create_task(_answer(foreign))
        await bench.pool.apply((bench.app("import time\ntime.sleep(1000)\n"),))
        pid = (await bench.state(_S.STARTING)).pid
        probe = StartProbe(pid, Binding(Contract.HTTP_PORT, "127.0.0.1", port), Get("/health"))
        passing = asyncio.create_task(probe.passed(0.1))
        await bench.until(lambda: probe.why == f"Port {port} belongs to another process.")
        assert not passing.done()
        passing.cancel()
        answering.cancel()


async def _answer(server: socket.socket) -> None:
    server.setblocking(False)
    while True:
        connection, _ = await asyncio.get_running_loop().sock_accept(server)
        with connection:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def test_a_start_whose_port_was_taken_takes_another_and_is_no_crash(bench, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as thief:
        taken = thief.getsockname()[1]
        free = sockdiag.free_port
        ports = iter([taken])
        monkeypatch.setattr(sockdiag, "free_port", lambda: next(ports, None) or free())
        await bench.pool.apply((bench.app(),))
        ready = await bench.state(_S.READY)
    assert ready.generation == 2
    assert bench.count(_S.BACKOFF) == 0
    death = await bench.state(_S.EXITED)
    assert death.cause is Cause.PORT_TAKEN
    holder = f"{psutil.Process().name()} (pid {os.getpid()})"
    assert f"did not get port {taken}: {holder} has it" in death.text


async def test_a_start_whose_ports_are_taken_again_and_again_waits_and_says_what_to_do(bench, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as thief:
        monkeypatch.setattr(sockdiag, "free_port", lambda: thief.getsockname()[1])
        await bench.pool.apply((bench.app(),))
        waits = await bench.state(_S.BACKOFF)
    assert "4 ports in a row were taken" in waits.text
    assert "ip_local_port_range" in waits.text
    monkeypatch.undo()
    await bench.state(_S.READY, waits.seq)


@pytest.mark.compiler
async def test_a_program_that_does_not_compile_makes_its_app_unavailable_and_the_rest_runs(bench):
    broken = bench.app("int main(void) { return nonsense; }\n", name="broken", language="c")
    await bench.pool.apply((broken, bench.app()))
    status = await bench.seen(lambda event: event.kind is EventKind.APP_STATUS and "unavailable" in event.text)
    assert "broken.c:1" in status.text
    assert "error: " in status.text
    assert bench.view("broken").unavailable
    await bench.state(_S.READY, app="app")


@pytest.mark.compiler
async def test_a_program_that_does_not_compile_is_compiled_once_until_it_changes_or_a_person_asks(bench):
    def told(words: str) -> int:
        return sum(words in event.text for event in bench.events.read().events)

    text = "int main(void) { return nonsense; }\n"
    await bench.pool.apply((bench.app(text, language="c"),))
    await bench.seen(lambda event: "unavailable" in event.text)
    await bench.pool.apply((bench.app(text, language="c", max_workers=3, standby=1),))
    await bench.until(lambda: bench.view().unavailable is not None)
    assert "app.c:1" in bench.view().unavailable
    assert (told("is being compiled"), told("unavailable")) == (1, 1)
    since = bench.events.next
    bench.pool.reload("app")
    await bench.seen(lambda event: "unavailable" in event.text, since)
    assert told("is being compiled") == 2
    since = bench.events.next
    await bench.pool.apply((bench.app(text + "/* changed */", language="c"),))
    await bench.seen(lambda event: "unavailable" in event.text, since)
    assert told("is being compiled") == 3


async def test_without_a_compiler_the_app_is_unavailable_with_the_command_that_installs_one(bench, monkeypatch):
    monkeypatch.setenv("PATH", str(bench.folder))
    await bench.pool.apply((bench.app("", name="search", language="c"), bench.app()))
    await bench.seen(lambda event: event.kind is EventKind.APP_STATUS)
    assert "apt install" in bench.view("search").unavailable
    await bench.state(_S.READY, app="app")


async def test_what_kept_one_program_from_running_is_not_said_of_the_next(bench, monkeypatch):
    monkeypatch.setenv("PATH", str(bench.folder))
    await bench.pool.apply((bench.app("", name="search", language="c"),))
    await bench.seen(lambda event: event.kind is EventKind.APP_STATUS)
    await bench.pool.apply((bench.app(name="search"),))
    assert bench.view("search").unavailable is None
    await bench.state(_S.READY, app="search")


@pytest.mark.compiler
async def test_an_unchanged_source_is_compiled_once_and_a_changed_one_again(bench):
    program = "#include <unistd.h>\nint main(void) { pause(); }\n"
    app = bench.app(program, name="search", language="c")
    await bench.pool.apply((app,))
    await bench.state(_S.STARTING)
    first = set((bench.folder / "cache" / "programs").iterdir())
    await bench.pool.apply(())
    await bench.state(_S.EXITED)
    since = bench.events.next
    await bench.pool.apply((app,))
    await bench.state(_S.STARTING, since)
    assert not any("compiled" in event.text for event in bench.events.read(since).events)
    await bench.pool.apply((bench.app(program + "/* changed */", name="search", language="c"),))
    await bench.seen(lambda event: "is being compiled" in event.text, since)
    await bench.seen(lambda event: "can be started" in event.text, since)
    assert len(set((bench.folder / "cache" / "programs").iterdir()) - first) == 1


async def test_a_source_that_is_missing_makes_its_app_unavailable(bench):
    app = msgspec.structs.replace(bench.app(), source=str(bench.folder / "nowhere.py"))
    await bench.pool.apply((app,))
    await bench.kind(EventKind.APP_STATUS)
    assert "nowhere.py" in bench.view().unavailable


async def test_a_process_beside_the_pool_reports_line_by_line_and_is_awaited(bench):
    lines = []
    argv = ("/bin/sh", "-c", "echo one >&{report_fd}; echo two >&{report_fd}; echo $COLOUR; exit 4")
    process = await bench.pool.run("colours", argv, {"COLOUR": "green"}, str(bench.folder), lines.append)
    assert await asyncio.wait_for(process.wait(), PATIENCE) == 4
    await bench.until(lambda: lines == ["one", "two"])
    log = bench.folder / "logs" / "colours.process.log"
    await bench.until(lambda: log.exists() and log.read_text() == "green\n")


async def test_the_last_words_of_a_process_are_its_own_and_not_of_one_before_it(bench):
    for said, told in (("echo one; echo two; echo; echo three >&2; echo four", "two | three | four"), ("true", "")):
        process = await bench.pool.run("speaker", ("/bin/sh", "-c", said), {}, None, lambda line: None)
        await process.wait()
        assert process.last_words() == told


async def test_processes_of_one_program_have_a_log_each(bench):
    for name in ("first", "second"):
        process = await bench.pool.run(name, ("/bin/sh", "-c", f"echo {name}"), {}, None, lambda line: None)
        await process.wait()
    logs, expected = bench.folder / "logs", {"first.process.log": "first\n", "second.process.log": "second\n"}
    await bench.until(lambda: {file.name: file.read_text() for file in logs.glob("*")} == expected)


async def test_the_log_of_a_process_is_bounded_as_that_of_a_worker_is(bench, monkeypatch):
    monkeypatch.setattr(output, "LARGEST_LOG", 100_000)
    flood = ("/bin/sh", "-c", "head -c 1000000 /dev/zero; echo; echo the end")
    process = await bench.pool.run("flood", flood, {}, None, lambda line: None)
    await process.wait()
    assert process.last_words().endswith("the end")
    await bench.pool.close()  # all is on the disk
    logs = {file.name: file.read_bytes() for file in (bench.folder / "logs").iterdir()}
    assert "flood.process.log.1" in logs
    assert logs.keys() <= {"flood.process.log", "flood.process.log.1"}
    assert b"the end" in logs.get("flood.process.log", logs["flood.process.log.1"])
    assert max(map(len, logs.values())) <= 100_000 + 64 * 1024


async def test_everything_a_process_reported_is_told_before_its_end(bench):
    for _ in range(20):
        lines = []
        process = await bench.pool.run("shell", ("/bin/sh", "-c", "printf last >&{report_fd}"), {}, None, lines.append)
        await process.wait()
        assert lines == ["last"]


async def test_a_process_that_cannot_be_executed_is_refused_with_the_reason(bench):
    with pytest.raises(UnavailableError, match="No such file"):
        await bench.pool.run("shell", ("/nowhere/at/all",), {}, None, lambda line: None)


async def test_a_stopped_group_dies_with_the_pool(bench):
    process = await bench.pool.run("shell", ("/bin/sh", "-c", "sleep 1000 & wait"), {}, None, lambda line: None)
    process.signal(signal.SIGSTOP, group=True)
    await bench.pool.close()
    assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
