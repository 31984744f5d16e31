"""`search` in every language, side by side in one lab: each serves, or is shown with the command that installs it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from lab import bootstrap, paths
from lab.config.languages import detect, load
from lab.core.model import AppSpec
from lab.core.snapshot import LabSnapshot
from lab.engine.lab import Lab

LANGUAGES = load()
MANIFEST = paths.content("samples") / "all-languages.json"
Running = Callable[[], Awaitable[Lab]]


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Running]:
    """Runs the manifest on a free port."""
    started: list[Lab] = []

    async def start() -> Lab:
        spec = msgspec.structs.replace(bootstrap.lab_spec(MANIFEST, port=0, name=tmp_path.name), own_rate=0)
        local = bootstrap.local_lab(spec, control=None)
        await asyncio.to_thread(local.start)
        started.append(local)
        return local

    yield start
    for lab in started:
        await lab.close()


async def settled(lab: Lab, app: AppSpec) -> LabSnapshot:
    """Wait until the app's program was built and its worker is READY, or it is said why there is none."""
    cursor = 0
    while True:
        snapshot = await lab.snapshot()
        found = snapshot.app(app.name)
        if found and (found.unavailable or [worker.state for worker in found.workers] == ["ready"]):
            return snapshot
        if found and app.language == "bash":
            return snapshot  # by CGI there is no worker to wait for
        cursor = (await lab.events(max(cursor, snapshot.events_next), wait=0.2)).next


@pytest.mark.timeout(180)
async def test_every_language_serves_or_is_shown_with_its_install_command(run: Running) -> None:
    lab = await run()
    spec = await lab.spec()
    assert {app.language for app in spec.apps} == set(LANGUAGES)
    results = set()
    async with asyncio.timeout(170), httpx.AsyncClient(timeout=60) as client:
        for app in spec.apps:
            snapshot = await settled(lab, app)
            found = snapshot.app(app.name)
            if not detect(LANGUAGES[app.language]).available:
                assert LANGUAGES[app.language].hint in str(found.unavailable)
                continue
            answer = await client.get(f"{snapshot.listener}{app.route}?q=process")
            document = answer.json()
            assert (answer.status_code, found.unavailable) == (200, None)
            assert document["language"] in app.language
            results.add(json.dumps(document["results"]))
    assert len(results) == 1


async def test_a_machine_without_compilers_shows_how_to_get_them_and_serves_what_it_can(
    run: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lab = await run()
    lacking = 0
    async with asyncio.timeout(60):
        for app in (await lab.spec()).apps:
            found = (await settled(lab, app)).app(app.name)
            if detect(LANGUAGES[app.language]).available:
                assert found.unavailable is None
            elif app.language != "bash":
                assert LANGUAGES[app.language].hint in found.unavailable
                lacking += 1
    assert lacking > 8
