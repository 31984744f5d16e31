"""The command line as a person or a script uses it: real processes, their output, their exit codes."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import jsonschema
import pytest

import lab

Run = Callable[..., "subprocess.CompletedProcess[str]"]
MANIFEST = {
    "version": 1,
    "name": "cli",
    "listener": {"port": 0},
    "apps": [
        {
            "name": "search",
            "route": "/api/search",
            "language": "python",
            "source": str(Path(lab.__file__).parent.parent / "samples/search/python/search.py"),
            "pool": {"max_workers": 2, "start_timeout": 20},
        }
    ],
}


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose runtime, state and cache folders are this test's own."""
    (tmp_path / "lab.json").write_text(json.dumps(MANIFEST))
    folders = {name: str(tmp_path / name) for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME")}
    return {**os.environ, **folders, "NO_COLOR": "1", "MANIFEST": str(tmp_path / "lab.json")}


@pytest.fixture
def run(home: dict[str, str]) -> Run:
    def run(*args: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "lab", *args]
        return subprocess.run(command, env=home, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)

    return run


@contextlib.contextmanager
def started(home: dict[str, str], *args: str) -> Iterator["subprocess.Popen[str]"]:
    """`cgilab up --json` in the background; ended by SIGTERM."""
    command = [sys.executable, "-m", "lab", "up", "--json", "--manifest", home["MANIFEST"], *args]
    process = subprocess.Popen(command, env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def until(lines: IO[str] | None, kind: str, times: int = 1, **wanted: object) -> dict[str, Any]:
    """Read JSON lines until the `times`-th event of this kind."""
    assert lines is not None
    for line in lines:
        event: dict[str, Any] = json.loads(line)
        if event["kind"] == kind and all(event.get(key) == value for key, value in wanted.items()):
            times -= 1
            if not times:
                return event
    raise AssertionError(f"the lab ended before {kind}")


def validate(document: object, schema: str) -> None:
    """Hold what was printed against the published schema."""
    place = Path(lab.__file__).parent / f"{schema}.schema.json"
    jsonschema.Draft202012Validator(json.loads(place.read_text())).validate(document)


def test_a_load_run_prints_live_lines_or_one_document(run: Run, up: object) -> None:
    result = json.loads(run("load", "search", "--users", "2", "--for", "1", "--json", "--name", "cli").stdout)
    validate(result, "load/result")
    assert result["answered"] == result["sent"] > 0
    lines = run("load", "search", "--users", "2", "--for", "1", "--name", "cli").stdout
    assert "warming up" in lines
    assert "requests/s" in lines


@pytest.fixture
def up(home: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    with started(home) as process:
        until(process.stdout, "endpoint.in", 2)
        yield process


def test_version_is_one_line(run: Run) -> None:
    done = run("version")
    assert (done.returncode, done.stdout) == (0, f"cgilab {lab.__version__}\n")


def test_status_json_has_the_published_shape(run: Run, up: object) -> None:
    done = run("status", "--json", "--name", "cli")
    assert done.returncode == 0
    assert done.stderr == ""
    status = json.loads(done.stdout)
    validate(status, "core/snapshot")
    assert status["version"] == 1
    assert [worker["state"] for worker in status["apps"][0]["workers"]] == ["ready", "ready"]
    assert len(status["invariants"]) == 7
    assert all(status["invariants"].values())


def test_29_trace_shows_where_the_time_of_a_request_went(run: Run, up: object) -> None:
    assert "trace_sample=1" in run("trace", "--name", "cli").stdout
    assert run("set", "proxy", "trace_sample=1", "--name", "cli").returncode == 0
    until_listed = time.monotonic() + 60  # the lab asks itself some times a second
    while not (listed := run("trace", "--json", "--name", "cli").stdout.splitlines()):
        assert time.monotonic() < until_listed
    newest = json.loads(listed[0])
    validate(newest, "core/trace")
    told = run("trace", newest["id"], "--name", "cli").stdout
    assert f"{newest['method']} {newest['target']}" in told
    assert f"{newest['attempts'][0]['worker']} (pid {newest['attempts'][0]['pid']}) had it" in told
    unknown = run("trace", "nobody", "--name", "cli")
    assert unknown.returncode == 2
    assert "trace_sample=1" in unknown.stderr


def test_endpoints_shows_what_the_balancer_believes_beside_what_the_kernel_knows(run: Run, up: object) -> None:
    told = run("endpoints", "--name", "cli").stdout.splitlines()
    assert told[0].split("  ")[-1] == "THE KERNEL KNOWS"
    assert told[1].startswith("WORKER")
    validate(json.loads(run("endpoints", "--json", "--name", "cli").stdout), "core/standing")
    assert "nothere" in run("endpoints", "nothere", "--name", "cli").stderr


def test_status_for_people_names_each_worker(run: Run, up: object) -> None:
    pids = [
        str(worker["pid"])
        for worker in json.loads(run("status", "--json", "--name", "cli").stdout)["apps"][0]["workers"]
    ]
    for text in (run("status", "--name", "cli").stdout, run("status", "--full", "--name", "cli").stdout):
        assert all(f"pid {pid}" in text for pid in pids)
        assert "holds: conserved" in text


def test_ten_requests_are_answered_by_different_pids(run: Run, up: object) -> None:
    url = json.loads(run("status", "--json", "--name", "cli").stdout)["listener"]
    answers = [json.load(urllib.request.urlopen(f"{url}/api/search?q=test", timeout=40)) for _ in range(10)]
    assert len({answer["pid"] for answer in answers}) == 2
    assert {answer["query"] for answer in answers} == {"test"}


def test_kill_tells_whom_it_hit_and_events_tell_the_rest(run: Run, up: "subprocess.Popen[str]") -> None:
    done = run("kill", "search/1", "--name", "cli")
    assert done.returncode == 0
    healed = until(up.stdout, "worker.healed", slot=1)
    assert str(healed["data"]["old_pid"]) in done.stdout
    assert "search/1" in run("events", "--name", "cli").stdout
    lines = run("events", "--json", "--since", str(healed["seq"]), "--name", "cli").stdout.splitlines()
    assert json.loads(lines[0])["kind"] == "worker.healed"
    for line in lines:
        validate(json.loads(line), "core/event")


def test_freeze_thaw_and_scale(run: Run, up: "subprocess.Popen[str]") -> None:
    assert run("freeze", "search/0", "--name", "cli").returncode == 0
    until(up.stdout, "worker.stopped", slot=0)
    assert run("thaw", "search/0", "--name", "cli").returncode == 0
    until(up.stdout, "worker.continued", slot=0)
    assert "2 -> 3" in run("scale", "search", "3", "--name", "cli").stdout
    until(up.stdout, "endpoint.in", slot=2)


def test_set_lists_changes_and_refuses(run: Run, up: "subprocess.Popen[str]") -> None:
    listed = run("set", "search", "--name", "cli").stdout.splitlines()
    assert "max_workers=2" in listed
    assert "liveness.interval=0.5" in listed
    changed = run("set", "search", "max_workers=3", "selection=least_connections", "--name", "cli")
    assert (changed.returncode, changed.stdout) == (
        0,
        "search: max_workers 2 -> 3\nsearch: selection round_robin -> least_connections\n",
    )
    until(up.stdout, "endpoint.in", slot=2)
    assert "search: env.A null -> empty" in run("set", "search", "env.A=", "--name", "cli").stdout
    for pairs, told in (
        (["max_workrs=3"], '"max_workers"'),
        (["max_workers=-1"], "from 0 to 1000"),
        (["max_workers"], "KEY=VALUE"),
        (["max_workers=4", "max_workers=5"], "Found max_workers twice: 4 and 5."),
        (["selection=best", "max_workers=1"], "round_robin"),
    ):
        refused = run("set", "search", *pairs, "--name", "cli")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert told in refused.stderr
    assert "max_workers=3" in run("set", "search", "--name", "cli").stdout
    unknown = run("set", "nobody", "--name", "cli")
    assert unknown.returncode == 2
    assert "search" in unknown.stderr


def test_reload_replaces_the_workers_and_tells_it(run: Run, up: "subprocess.Popen[str]") -> None:
    assert run("reload", "search", "--name", "cli").returncode == 0
    assert until(up.stdout, "app.reload")["data"]["step"] == "noticed"
    until(up.stdout, "worker.state", 2, state="exited", cause="reloaded")
    assert run("reload", "nobody", "--name", "cli").returncode == 2


def test_events_follow_ends_with_the_lab(home: dict[str, str]) -> None:
    with started(home) as process:
        until(process.stdout, "endpoint.in", 2)
        command = [sys.executable, "-m", "lab", "events", "--follow", "--json", "--name", "cli"]
        with subprocess.Popen(
            command, env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as following:
            until(following.stdout, "endpoint.in", 2)
            process.terminate()
            assert "went away" in following.communicate(timeout=60)[1]
            assert following.returncode == 3


def test_a_reader_that_leaves_is_no_error(home: dict[str, str], run: Run, up: object) -> None:
    script = f"{sys.executable} -m lab events --follow --name cli | head -n 1"
    command = ["bash", "-o", "pipefail", "-c", script]
    with subprocess.Popen(command, env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reading:
        assert reading.stdout
        assert reading.stdout.readline()  # and head has gone
        assert run("kill", "random", "--name", "cli").returncode == 0
        rest, complaints = reading.communicate(timeout=60)
    assert (rest, complaints) == ("", "")
    assert reading.returncode in (0, 1)  # which is head's or what click says of a pipe that nobody reads


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["status"], 3, "cgilab up"),
        (["kill", "random"], 3, "cgilab up"),
        (["explode"], 2, "explode"),
        (["scale", "search", "many"], 2, "many"),
        (["shift", "search"], 2, "APP=WEIGHT"),
        (["up", "--port", "99999"], 2, "99999"),
        (["up", "--plain", "--json"], 2, "--plain"),
        (["up", "--manifest", "nowhere.json"], 3, "nowhere.json"),
        (["--port", "0", "up"], 2, "cgilab up --help"),
        (["--port", "0"], 2, "The screen needs a terminal"),
        (["attach"], 2, "cgilab events --follow"),
        (["up", "--name", "../x"], 2, "'../x'"),
        (["status", "--name", "x" * 33], 2, "up to 32"),
    ],
)
def test_a_wrong_command_says_what_was_found_and_what_to_do(run: Run, args: list[str], code: int, told: str) -> None:
    done = run(*args)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("weight", "told"), [("search=1", "an app's own route"), ("search=half", "shift ROUTE APP=WEIGHT [APP=WEIGHT ...]")]
)
def test_weights_that_make_no_sense_are_wrong_usage(run: Run, up: object, weight: str, told: str) -> None:
    done = run("shift", "search", weight, "--name", "cli")
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_target_is_wrong_usage(run: Run, up: object) -> None:
    done = run("kill", "nobody/7", "--name", "cli")
    assert done.returncode == 2
    assert "search/0" in done.stderr


def test_a_second_lab_of_the_same_name_says_how_to_reach_the_first(run: Run, home: dict[str, str], up: object) -> None:
    done = run("up", "--manifest", home["MANIFEST"])
    assert done.returncode == 3
    assert "already runs" in done.stderr
    assert "cgilab attach --name cli" in done.stderr


def test_a_command_speaks_to_the_only_lab_that_runs_and_asks_which_where_there_are_more(
    run: Run, home: dict[str, str], up: object
) -> None:
    assert json.loads(run("status", "--json").stdout)["name"] == "cli"
    wrong = run("status", "--name", "other")
    assert (wrong.returncode, "--name cli" in wrong.stderr) == (3, True)
    with started(home, "--name", "other") as second:
        until(second.stdout, "proxy.listening")
        unsure = run("status")
        assert unsure.returncode == 3
        assert "cli and other" in unsure.stderr
        assert json.loads(run("status", "--json", "--name", "other").stdout)["name"] == "other"
        second.kill()  # it leaves its socket behind
        second.wait(20)
        assert json.loads(run("status", "--json").stdout)["name"] == "cli"


def test_an_explicit_port_in_use_names_the_process_that_holds_it(run: Run, home: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("up", "--manifest", home["MANIFEST"], "--port", str(port))
    assert done.returncode == 3
    assert str(port) in done.stderr
    assert str(os.getpid()) in done.stderr


def test_an_address_that_this_machine_does_not_have_is_told_and_nothing_starts(run: Run, home: dict[str, str]) -> None:
    Path(home["MANIFEST"]).write_text(json.dumps(MANIFEST | {"listener": {"host": "203.0.113.7", "port": 0}}))
    done = run("up", "--manifest", home["MANIFEST"], "--for", "5")
    assert (done.returncode, done.stdout) == (3, "")
    assert "Cannot listen at 203.0.113.7 port 0: " in done.stderr


def test_a_port_in_use_by_default_is_told_and_the_next_free_one_is_taken(home: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        Path(home["MANIFEST"]).write_text(json.dumps(MANIFEST | {"listener": {"port": port}}))
        with started(home) as process:
            listening = until(process.stdout, "proxy.listening")
    assert str(port) in listening["text"]
    assert listening["data"]["asked"] == port
    assert int(listening["data"]["url"].rpartition(":")[2]) > port


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)])
def test_a_signal_stops_everything_cleanly(home: dict[str, str], number: int, code: int) -> None:
    with started(home) as process:
        pids = [until(process.stdout, "endpoint.in")["pid"] for _ in range(2)]
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert process.returncode == code
        assert told == "2 workers stopped, 0 left.\n"
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


STUCK = {
    "it sleeps": ("time.sleep(1e9)", "mine.py, line 7: it is in code that cannot be interrupted.\\n2 workers", 0),
    "it computes": ("sum(range(10**12))", 'mine.py", line 7 in choose', -signal.SIGPROF),
}
"""In code of a kind that lets others have their turn meanwhile, and of one that does not."""


@pytest.mark.parametrize(("body", "said", "code"), STUCK.values(), ids=STUCK)
def test_a_lab_ends_when_it_is_told_to_though_a_policy_keeps_it_from_doing_anything(
    home: dict[str, str], tmp_path: Path, body: str, said: str, code: int
) -> None:
    chosen = tmp_path / "chosen"
    (tmp_path / "mine.py").write_text(
        "import pathlib, time\n\nclass Policy:\n    def choose(self, endpoints, request):\n"
        f"        if request.path == '/api/search/x':\n            pathlib.Path({str(chosen)!r}).touch()\n"
        f"            {body}\n        return endpoints[0]\n"
    )
    manifest = json.loads((tmp_path / "lab.json").read_text())
    manifest["apps"][0]["selection"] = "./mine.py"
    (tmp_path / "lab.json").write_text(json.dumps(manifest))
    with started(home) as process:
        address = until(process.stdout, "proxy.listening")["data"]["url"].removeprefix("http://").split(":")
        pids = [until(process.stdout, "endpoint.in")["pid"] for _ in range(2)]
        while not chosen.exists():  # there is nothing to choose while a question about its health occupies a worker
            with socket.create_connection((address[0], int(address[1]))) as client:
                client.sendall(b"GET /api/search/x HTTP/1.1\r\nHost: x\r\n\r\n")
                client.settimeout(1.0)
                with contextlib.suppress(TimeoutError):
                    client.recv(4096)
        process.terminate()
        _, told = process.communicate(timeout=60)
        assert process.returncode == code
        assert re.search(said, told)
        while [pid for pid in pids if lives(pid)]:
            time.sleep(0.01)


def test_ctrl_c_while_it_is_still_imported_is_no_traceback(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-m", "lab", "version"]
    done = subprocess.run(command, env=home | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def descendants(root: int) -> set[int]:
    """Every process below `root`. Threads and processes may end while they are looked at."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{root}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for child in map(int, (task / "children").read_text().split()):
                    found |= {child} | descendants(child)
    return found


def lives(pid: int) -> bool:
    """A zombie is dead: it waits for init, whose business it is when the whole family died."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_sigkill_of_the_lab_leaves_no_descendant(home: dict[str, str]) -> None:
    with started(home) as process:
        until(process.stdout, "endpoint.in", 2)
        below = descendants(process.pid)
        assert len(below) == 3  # the fork server and two workers
        process.kill()
        process.wait()
        deadline = time.monotonic() + 30
        while alive := [pid for pid in below if lives(pid)]:
            assert time.monotonic() < deadline, alive


def test_for_stops_by_itself(run: Run, home: dict[str, str]) -> None:
    done = run("up", "--manifest", home["MANIFEST"], "--for", "0.5")
    assert done.returncode == 0
    assert "Listening at http://127.0.0.1:" in done.stdout
    assert done.stderr.endswith(" left.\n")


def test_doctor_json_tells_what_runs_here(run: Run) -> None:
    found = json.loads(run("doctor", "--json").stdout)
    validate(found, "engine/doctor")
    assert found["version"] == 1
    languages = {language["name"]: language for language in found["languages"]}
    assert languages["python"]["available"]
    assert "pidfd" in found["kernel"]
