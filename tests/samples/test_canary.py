"""The sample of a canary: every tenth request goes to the second version, and whoever asks for it gets it always."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest

from lab import bootstrap, paths
from lab.core.snapshot import AppSnapshot

PATIENCE = 60


def served(app: AppSnapshot) -> bool:
    """Whether it has a worker that gets requests."""
    return any(worker.routed for worker in app.workers)


@pytest.fixture
async def lab() -> AsyncIterator[bootstrap.LocalLab]:
    spec = bootstrap.lab_spec(paths.content("samples") / "canary.json", port=0, name="canary")
    lab = bootstrap.local_lab(spec, control=None)
    await asyncio.to_thread(lab.start)
    await lab.traffic(0)
    async with asyncio.timeout(PATIENCE):
        while (now := await lab.snapshot()) and not all(map(served, now.apps)):
            await lab.events(now.events_next, wait=0.1)
    yield lab
    await lab.close()


async def test_17_the_sample_shares_its_requests_out_until_the_second_version_has_all(lab: bootstrap.LocalLab) -> None:
    async with httpx.AsyncClient(base_url=(await lab.snapshot()).listener) as client:

        async def ask(times: int, **fields: str) -> dict[str, int]:
            answers = [await client.get("/api/search?q=tcp", headers=fields) for _ in range(times)]
            return Counter(answer.json()["language"] for answer in answers)

        assert await ask(100) == {"python": 90, "c": 10}
        assert await ask(5, **{"X-Preview": "yes"}) == {"c": 5}
        await lab.shift("search", {"search-one": 1, "search-two": 3})
        assert await ask(20) == {"python": 5, "c": 15}
        await lab.shift("search", {"search-one": 0})
        assert await ask(10) == {"c": 10}
