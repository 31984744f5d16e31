"""Point 18 in a whole lab: real workers that are killed, files that are edited, settings that are changed."""

import asyncio
import http.client
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from lab import bootstrap, paths
from lab.core.errors import ConfigError, DeadlineError, NotPossibleError
from lab.core.events import Event, EventKind
from lab.engine.local import LocalLab

SEARCH = str(paths.content("samples") / "search/python/search.py")
FIRST = "class Policy:\n    def choose(self, endpoints, request):\n        return endpoints[0]\n"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[LocalLab]:
    """Three workers in Python, and a policy in a file beside the manifest that chooses among them."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mine.py").write_text(FIRST)
    app = {"name": "search", "route": "/search", "language": "python", "source": SEARCH, "concurrency": 4}
    app |= {"selection": "./policies/mine.py", "pool": {"max_workers": 3, "start_timeout": 20, "backoff_initial": 0.1}}
    app |= {"liveness": {"interval": 3600}}  # a question is in flight, too, and would be in the way of a choice
    file = tmp_path / "lab.json"
    file.write_text(json.dumps({"version": 1, "name": "select", "listener": {"port": 0}, "apps": [app]}))
    spec = msgspec.structs.replace(bootstrap.lab_spec(file, port=0, name=None), own_rate=0)
    lab = bootstrap.local_lab(spec, file=file, control=None)
    await asyncio.to_thread(lab.start)
    try:
        await until(lab, EventKind.ENDPOINT_IN, times=3)
        yield lab
    finally:
        await lab.close()


async def until(lab: LocalLab, kind: EventKind, since: int = 1, times: int = 1) -> Event:
    """The event of a kind after so many from `since` on."""
    async with asyncio.timeout(40):
        while True:
            batch = await lab.events(since, wait=5)
            since = batch.next
            for event in batch.events:
                times -= event.kind is kind
                if not times:
                    return event


async def ask(lab: LocalLab, cookie: str | None = None) -> tuple[int, str | None]:
    """The slot that answers, and the cookie that it wants to be kept."""
    address = (await lab.snapshot()).listener.removeprefix("http://")

    def request() -> tuple[dict[str, Any], str | None]:
        connection = http.client.HTTPConnection(address, timeout=20)
        connection.request("GET", "/search?q=a", headers={"Cookie": cookie} if cookie else {})
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
        return body, answer.getheader("Set-Cookie")

    body, told = await asyncio.to_thread(request)
    workers = (await lab.snapshot()).apps[0].workers
    return next(worker.slot for worker in workers if worker.pid == body["pid"]), told and told.partition(";")[0]


async def test_18_a_policy_beside_the_manifest_chooses_and_an_edited_one_is_loaded_anew(
    lab: LocalLab, tmp_path: Path
) -> None:
    assert [(await ask(lab))[0] for _ in range(3)] == [0, 0, 0]
    since = (await lab.events()).next
    (tmp_path / "policies" / "mine.py").write_text(FIRST.replace("[0]", "[-1]"))
    assert "mine.py is loaded" in (await until(lab, EventKind.SELECTION, since)).text
    assert [(await ask(lab))[0] for _ in range(3)] == [2, 2, 2]
    since = (await lab.events()).next
    (tmp_path / "policies" / "mine.py").write_text(FIRST.replace("[0]", "[9]"))
    assert "mine.py is loaded" in (await until(lab, EventKind.SELECTION, since)).text
    assert {(await ask(lab))[0] for _ in range(3)} == {0, 1, 2}
    wrong = await until(lab, EventKind.SELECTION, since, times=2)
    assert "mine.py, line 3: choose raised IndexError: tuple index out of range" in wrong.text


async def test_18_the_sample_policy_keeps_writes_apart(lab: LocalLab) -> None:
    since = (await lab.events()).next
    sample = str(paths.content("samples") / "policies" / "writes_apart.py")
    await lab.set("search", {"selection": sample})
    assert "writes_apart.py is loaded" in (await until(lab, EventKind.SELECTION, since)).text
    assert [(await ask(lab))[0] for _ in range(4)] == [1, 2, 1, 2]
    async with httpx.AsyncClient() as client:
        for _ in range(3):
            await client.post((await lab.snapshot()).listener + "/search", content=b"something")
    async with asyncio.timeout(40):
        while [worker.requests for worker in (await lab.snapshot()).apps[0].workers] != [3, 2, 2]:
            await asyncio.sleep(0.05)
    assert not [event for event in (await lab.events(since)).events if "mistake" in event.data]


async def test_18_a_sticky_session_survives_other_deaths_and_moves_when_its_own_worker_is_killed(
    lab: LocalLab,
) -> None:
    await lab.set("search", {"selection": "sticky_cookie"})
    home, session = await ask(lab)
    assert session is not None
    assert [await ask(lab, session) for _ in range(4)] == [(home, None)] * 4
    since = (await lab.events()).next
    other = (home + 1) % 3
    await lab.signal(f"search/{other}")
    await until(lab, EventKind.HEALED, since)
    assert await ask(lab, session) == (home, None)
    await lab.set("search", {"stable_after": "1000", "backoff_initial": "30"})  # its successor would be its home too
    since, snapshot = (await lab.events()).next, await lab.snapshot()
    os.kill(next(worker.pid for worker in snapshot.apps[0].workers if worker.slot == home), signal.SIGKILL)
    await until(lab, EventKind.ENDPOINT_OUT, since)
    moved, told = await ask(lab, session)
    assert moved != home
    assert told not in (None, session)
    assert await ask(lab, told) == (moved, None)


async def test_18_selection_is_set_by_name_weights_by_slot_and_a_mistake_is_explained(lab: LocalLab) -> None:
    await lab.set("search", {"selection": "weighted_round_robin", "weights": "4,1"})
    slots = [(await ask(lab))[0] for _ in range(12)]
    assert [slots.count(slot) for slot in range(3)] == [8, 2, 2]
    for wrong, expected in (
        ({"selection": "leest_connections"}, 'Did you mean "least_connections"?'),
        ({"selection": "/nowhere/mine.py"}, "selection: found no file /nowhere/mine.py, expected the absolute path"),
        ({"selection": "mine.py"}, "selection: found no file mine.py, expected the absolute path"),
        ({"weights": "0,1"}, "weights: found"),
        ({"hash.key": "colour"}, "expected one of client, path, header:NAME, cookie:NAME"),
        ({"slow_start": "-1"}, "slow_start: found"),
    ):
        with pytest.raises(NotPossibleError) as refused:
            await lab.set("search", wrong)
        assert expected in str(refused.value)


def test_18_a_manifest_that_names_a_policy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    app = {"name": "a", "route": "/a", "language": "python", "source": "a.py", "selection": "policies/none.py"}
    file = tmp_path / "lab.json"
    file.write_text(json.dumps({"version": 1, "apps": [app]}))
    with pytest.raises(ConfigError, match=r"apps\[0\]\.selection: found no file .*/policies/none\.py, expected one"):
        bootstrap.lab_spec(file, port=0, name=None)


async def test_18_who_gets_no_answer_is_told_which_policy_everybody_waits_for(lab: LocalLab, tmp_path: Path) -> None:
    since = (await lab.events()).next
    slow = FIRST.replace("        return", "        import time\n        time.sleep(4)\n        return")
    (tmp_path / "policies" / "mine.py").write_text(slow)
    assert "mine.py is loaded" in (await until(lab, EventKind.SELECTION, since)).text
    address = (await lab.snapshot()).listener
    async with httpx.AsyncClient(timeout=30) as client:
        asking = asyncio.create_task(client.get(address + "/search?q=a"))
        told = ""
        while "choose at mine.py, line 4" not in told and not asking.done():
            try:
                await lab.snapshot()  # in a moment, and not when its own patience ends
            except DeadlineError as error:
                told = str(error)
        assert "choose at mine.py, line 4: it is in code that cannot be interrupted" in told
        assert (await asking).status_code == 200
        assert "Quitting ends the lab all the same." in told
    assert "until the file is saved again" in (await until(lab, EventKind.SELECTION, since, times=2)).text
