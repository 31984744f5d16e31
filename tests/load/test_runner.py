"""Real locust on a whole lab: both sides agree about every request, and the run lives and dies with the lab."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from lab import paths
from lab.core.errors import LabError, NotPossibleError, UnknownTargetError
from lab.core.events import EventKind
from lab.engine.lab import Lab
from lab.load import runner
from lab.load.profiles import Profile
from lab.load.results import Ending, Report, Result, Sample
from lab.load.runner import LoadRun


async def whole(lab: Lab, profile: Profile) -> Result:
    return await (await runner.start(lab, profile)).result()


async def until_measuring(run: LoadRun) -> None:
    async for sample in run.samples():
        if not sample.warming_up:
            return


async def insist(run: LoadRun) -> None:
    """Stop the run again and again, as a person does with Ctrl-C."""
    while True:
        await run.stop()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
async def test_locust_and_the_proxy_count_the_same_requests(lab: Lab, workers: int) -> None:
    run = await runner.start(lab, Profile(target="search", users=20, seconds=2, workers=workers))
    samples = [sample async for sample in run.samples()]
    result = await run.result()
    while (totals := (await lab.snapshot()).totals).in_flight:
        await asyncio.sleep(0.05)
    assert samples[0] == Sample(elapsed_s=0.0)
    assert len(samples) >= 3
    assert (result.ending, result.failed) == (Ending.FINISHED, 0)
    assert result.answered <= totals.answered <= totals.accepted <= result.sent
    assert result.sent - result.answered <= 20, "the end of the run cuts off at most one request of each user"
    assert 0 < result.rps <= 1.3 * 200


async def test_a_run_of_several_processes_is_stopped_with_its_figures(lab: Lab) -> None:
    run = await runner.start(lab, Profile(target="search", users=4, seconds=60, workers=2))
    await until_measuring(run)
    await run.stop()
    result = await run.result()
    assert result.ending is Ending.STOPPED
    assert result.answered == (await lab.snapshot()).totals.answered > 0


@pytest.mark.parametrize("stopped", [True, False])
async def test_what_the_processes_of_a_run_count_last_is_waited_for(lab: Lab, stopped: bool) -> None:
    seconds = 60 if stopped else 2
    run = await runner.start(lab, Profile(target="/api/search/late", users=4, seconds=seconds, workers=2))
    await until_measuring(run)
    if stopped:
        await run.stop()
    result = await run.result()
    assert result.answered == (await lab.snapshot()).totals.answered > 0
    assert f'"num_requests": {result.answered},' in Path(result.report).read_text()


async def test_a_report_is_left_in_the_users_state_folder(lab: Lab) -> None:
    result = await whole(lab, Profile(target="search", seconds=1))
    assert Path(result.report).parent == paths.state() / "reports"
    assert "<html" in Path(result.report).read_text()


async def test_a_report_goes_where_it_was_asked_for(lab: Lab, tmp_path: Path) -> None:
    wanted = tmp_path / "deep" / "run.html"
    result = await (await runner.start(lab, Profile(target="search", seconds=1), html=wanted)).result()
    assert result.report == str(wanted)
    assert wanted.exists()


async def test_a_report_that_has_no_place_is_refused_before_anything_starts(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotPossibleError, match="cannot be made"):
        await runner.start(lab, Profile(target="search"), html=tmp_path / "file" / "run.html")


async def test_settings_of_locust_that_lie_beside_the_report_are_ignored(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.locust]\ntags = ["nobody"]\n')
    run = await runner.start(lab, Profile(target="search", seconds=1), html=tmp_path / "run.html")
    assert (await run.result()).answered > 0


async def test_latencies_are_not_rounded_to_whole_milliseconds(lab: Lab) -> None:
    result = await whole(lab, Profile(target="search", users=4, seconds=1))
    told = [event for event in (await lab.events()).events if event.kind is EventKind.PROCESS_REPORT]
    latencies = [us for event in told for us in msgspec.json.decode(event.text, type=Report).latencies]
    assert any(us % 1000 for us in latencies)
    assert result.p50_ms is not None
    assert result.max_ms == max(latencies) / 1000 >= result.p50_ms > 0


async def test_failures_are_counted_by_their_reason(lab: Lab) -> None:
    result = await whole(lab, Profile(target="/api/search/broken", users=5, seconds=1))
    assert result.sent == result.failed > 0
    assert result.errors == {"status 503": result.failed}


async def test_a_redirect_is_not_followed(lab: Lab) -> None:
    result = await whole(lab, Profile(target="/api/search/away?x=1", users=2, seconds=1))
    assert result.answered == (await lab.snapshot()).totals.accepted > 0


async def test_a_stopped_run_keeps_its_figures_and_its_report_however_often_it_is_stopped(lab: Lab) -> None:
    run = await runner.start(lab, Profile(target="search", users=5, seconds=60))
    await until_measuring(run)
    impatience = asyncio.create_task(insist(run))
    result = await run.result()
    impatience.cancel()
    assert result.ending is Ending.STOPPED
    assert result.sent == result.answered > 0
    assert Path(result.report).is_file()
    await run.stop()


async def test_a_run_stopped_while_it_warms_up_has_measured_nothing(lab: Lab) -> None:
    run = await runner.start(lab, Profile(target="search", seconds=60))
    await run.stop()
    result = await run.result()
    assert (result.ending, result.sent, result.report) == (Ending.STOPPED, 0, "")


async def test_a_generator_that_is_killed_leaves_what_it_had_measured(lab: Lab, events) -> None:
    run = await runner.start(lab, Profile(target="search", seconds=60))
    pid = await events.pid_at(EventKind.PROCESS_STARTED)
    await until_measuring(run)
    os.kill(pid, signal.SIGKILL)
    result = await run.result()
    assert result.ending is Ending.DIED
    assert result.answered > 0
    assert "died" in result.warnings[0]


async def test_a_generator_that_cannot_start_is_an_error_that_says_where_to_look(lab: Lab, events) -> None:
    run = await runner.start(lab, Profile(target="search"))
    os.kill(await events.pid_at(EventKind.PROCESS_STARTED), signal.SIGKILL)
    with pytest.raises(LabError, match="ended before it sent anything") as caught:
        await run.result()
    assert str(paths.state()) in caught.value.remedy


async def test_a_lab_that_stops_takes_its_load_run_with_it(lab: Lab, events) -> None:
    run = await runner.start(lab, Profile(target="search", seconds=60))
    pid = await events.pid_at(EventKind.PROCESS_STARTED)
    await until_measuring(run)
    await lab.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_nothing_but_the_labs_own_listener_is_a_target(lab: Lab) -> None:
    before = (await lab.snapshot()).events_next
    elsewhere = ("http://example.com/", "http://127.0.0.1:1/", "https://127.0.0.1", "//example.com/", "127.0.0.1:80")
    for target in (*elsewhere, "serach", "/a b", ""):
        with pytest.raises(UnknownTargetError) as caught:
            await runner.start(lab, Profile(target=target))
        assert "search" in caught.value.message
    began = [event for event in (await lab.events(before)).events if event.kind is EventKind.PROCESS_STARTED]
    assert began == []


async def test_an_app_a_path_and_a_url_of_the_listener_are_targets(lab: Lab) -> None:
    snapshot = await lab.snapshot()
    assert runner.resolve(snapshot, "search") == "/api/search"
    assert runner.resolve(snapshot, "/api/search?q=x") == "/api/search?q=x"
    assert runner.resolve(snapshot, f"{snapshot.listener}/api/search?q=x#part") == "/api/search?q=x"
    assert runner.resolve(snapshot, snapshot.listener) == "/"


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
        timeout=60,
        check=False,
    )
    os.close(write)
    assert done.returncode == 0, done.stderr.decode()
