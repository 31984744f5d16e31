"""Real locust, real requests: what it counted is what the server saw."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.core.errors import LabError, UnknownTargetError
from lab.load import runner
from lab.load.profiles import Profile
from lab.load.results import Ending, Sample


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "cgilab"


async def test_a_run_counts_what_the_server_saw_and_leaves_a_report(lab, listener, own_state: Path) -> None:
    run = await runner.start(lab, Profile(target="search", users=20, seconds=2))
    samples = [sample async for sample in run.samples()]
    result = await run.result()
    assert samples[0] == Sample(elapsed_s=0.0)
    assert len(samples) >= 5
    assert result.ending is Ending.FINISHED
    assert result.sent == result.answered == listener.seen["/api/search"]
    assert result.failed == 0
    assert result.rps == pytest.approx(200, rel=0.3)
    assert Path(result.report).parent == own_state / "reports"
    assert "<html" in Path(result.report).read_text()


async def test_latencies_below_a_millisecond_are_not_rounded_away(lab) -> None:
    result = await (await runner.start(lab, Profile(target="search", users=4, seconds=1))).result()
    assert result.p50_ms is not None
    assert 0 < result.p50_ms < 20
    assert result.p50_ms != round(result.p50_ms)


async def test_a_stopped_run_keeps_its_figures_and_its_report_even_when_stopped_twice(lab, listener) -> None:
    run = await runner.start(lab, Profile(target="/broken", users=5, seconds=60))
    async for sample in run.samples():
        if not sample.warming_up:
            await run.stop()
    result = await run.result()
    assert result.ending is Ending.STOPPED
    assert result.sent == result.failed == listener.seen["/broken"] > 0
    assert result.errors == {"status 503": result.failed}
    assert Path(result.report).exists()
    await run.stop()


async def test_a_run_stopped_while_it_warms_up_has_measured_nothing(lab) -> None:
    run = await runner.start(lab, Profile(target="search", seconds=60))
    await run.stop()
    result = await run.result()
    assert (result.ending, result.sent, result.report) == (Ending.STOPPED, 0, "")


async def test_a_redirect_is_not_followed(lab, listener) -> None:
    run = await runner.start(lab, Profile(target="/away?x=1", users=2, seconds=1))
    result = await run.result()
    assert result.answered == listener.seen["/away?x=1"] > 0
    assert listener.seen["/elsewhere"] == 0


async def test_a_generator_that_is_killed_leaves_what_it_had_measured(lab) -> None:
    run = await runner.start(lab, Profile(target="search", seconds=60))
    async for sample in run.samples():
        if not sample.warming_up:
            lab.kill(run.name)
            break
    result = await run.result()
    assert result.ending is Ending.DIED
    assert result.answered > 0
    assert "died" in result.warnings[0]


async def test_a_generator_that_cannot_start_is_an_error_that_says_where_to_look(lab, own_state: Path) -> None:
    run = await runner.start(lab, Profile(target="search"))
    lab.kill(run.name)
    with pytest.raises(LabError, match="ended before it sent anything") as caught:
        await run.result()
    assert str(own_state) in caught.value.remedy


async def test_a_report_goes_where_it_was_asked_for(lab, tmp_path: Path) -> None:
    wanted = tmp_path / "deep" / "run.html"
    result = await (await runner.start(lab, Profile(target="search", seconds=1), html=wanted)).result()
    assert result.report == str(wanted)
    assert wanted.exists()


@pytest.mark.parametrize(
    "target",
    [
        "http://example.com/",
        "http://127.0.0.1:1/",
        "https://127.0.0.1",
        "serach",
        "//example.com/",
        "/a b",
        "127.0.0.1:80",
        "",
    ],
)
async def test_nothing_but_the_labs_own_listener_is_a_target(lab, target: str) -> None:
    with pytest.raises(UnknownTargetError) as caught:
        await runner.start(lab, Profile(target=target))
    assert "search" in caught.value.message
    assert lab.started == []


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("search", "/api/search"),
        ("/api/search?q=x", "/api/search?q=x"),
        ("LISTENER/api/search?q=x#part", "/api/search?q=x"),
        ("LISTENER", "/"),
    ],
)
async def test_an_app_a_path_and_a_url_of_the_listener_are_targets(lab, listener, target: str, path: str) -> None:
    assert runner.resolve(await lab.snapshot(), target.replace("LISTENER", listener.url)) == path


def test_a_generator_that_nobody_reads_from_ends_by_itself(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    locustfile = Path(runner.__file__).with_name("locustfile.py")
    argv = [sys.executable, "-m", "locust", "--headless", "-f", locustfile, "-H", "http://127.0.0.1:9"]
    done = subprocess.run(
        [*argv, "--report-fd", str(write)],
        env={**os.environ, "CGILAB_LOAD_PROFILE": json.dumps({"target": "/", "users": 1, "seconds": 60})},
        pass_fds=(write,),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )
    os.close(write)
    assert done.returncode == 0, done.stderr.decode()
