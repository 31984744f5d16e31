"""Point 28 as programs see it: `/-/metrics` adds up, `/-/readyz` says who is not ready."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from lab import bootstrap
from lab.core.histogram import Histogram
from lab.core.model import AppSpec, ListenerSpec, PoolSettings
from lab.engine.lab import Lab, LabSpec

SOURCE = bootstrap.default_manifest().parent / "search" / "python" / "search.py"
POOL = PoolSettings(max_workers=2, start_timeout=20)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    app = AppSpec(name="search", route="/api/search", language="python", source=str(SOURCE), pool=POOL)
    spec = LabSpec(name="pages", listener=ListenerSpec(port=0), apps=(app,), own_rate=0)
    local = bootstrap.local_lab(spec, control=None)
    await asyncio.to_thread(local.start)
    yield local
    await local.close()


async def ask(lab: Lab, path: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    url = (await lab.snapshot()).listener + path

    def get() -> tuple[int, str, str]:
        try:
            with urllib.request.urlopen(url, timeout=40) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read().decode()

    return await asyncio.to_thread(get)


async def until_ready(lab: Lab) -> str:
    """The page of a lab whose every app has an endpoint."""
    async with asyncio.timeout(30):
        while (answer := await ask(lab, "/-/readyz"))[0] != 200:
            assert "search: NOT READY" in answer[2]
            await lab.events((await lab.snapshot()).events_next, wait=0.2)
    return answer[2]


async def test_28_readyz_says_which_app_has_no_endpoint_and_healthz_answers_all_the_same(lab: Lab) -> None:
    assert "search: ready, with" in await until_ready(lab)
    await lab.scale("search", 0)
    async with asyncio.timeout(30):
        while (await ask(lab, "/-/readyz"))[0] != 503:
            await lab.events((await lab.snapshot()).events_next, wait=0.2)
    assert await ask(lab, "/-/healthz") == (200, "text/plain; charset=utf-8", "ok\n")


async def test_28_the_pages_are_listed_and_others_are_not_there(lab: Lab) -> None:
    _, _, index = await ask(lab, "/-/")
    listed = [line.split()[0] for line in index.splitlines()]
    assert listed == ["/-/metrics", "/-/pool-status", "/-/healthz", "/-/readyz"]
    assert {(await ask(lab, path))[0] for path in listed} <= {200, 503}
    assert (await ask(lab, "/-/nothing"))[0] == 404
    assert json.loads((await ask(lab, "/-/pool-status?json"))[2])["pool"] == "search"
    assert (await ask(lab, "/pool-status"))[0] == 200


async def test_28_metrics_add_up(lab: Lab) -> None:
    await until_ready(lab)
    for _ in range(5):
        assert (await ask(lab, "/api/search?q=x"))[0] == 200
    await lab.request("search")
    status, kind, text = await ask(lab, "/-/metrics")
    assert (status, kind.partition(";")[0]) == (200, "application/openmetrics-text")
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(name: str, **labels: str) -> float:
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    assert total("cgilab_route_requests_total", route="search", status="2xx") == 6
    assert total("cgilab_app_requests_total", app="search", status="2xx") == 6
    assert total("cgilab_worker_requests_total", app="search", status="2xx") == 6
    assert total("cgilab_app_sent_bytes_total") == total("cgilab_worker_sent_bytes_total") > 100
    for stage in ("queue", "connect", "first_byte", "total"):
        assert total("cgilab_app_duration_seconds_count", app="search", stage=stage) == 6
        infinite = total("cgilab_app_duration_seconds_bucket", app="search", stage=stage, le="+Inf")
        assert infinite == 6
    assert total("cgilab_worker_duration_seconds_count", app="search") == 6
    assert total("cgilab_app_duration_seconds_sum", stage="total") > 0
    ended = total("cgilab_requests_total")
    assert total("cgilab_accepted_total") == ended + total("cgilab_in_flight")
    assert total("cgilab_own_requests_total", outcome="answered") == 1
    assert total("cgilab_app_workers", app="search") == 2
    assert 1 <= total("cgilab_app_endpoints", app="search", health="healthy") <= 2
    assert total("cgilab_access_log_lost_lines_total") == 0


async def test_28_no_app_can_have_the_pages_of_the_gateway(lab: Lab, tmp_path: Path) -> None:
    spec = await lab.spec()
    for route in ("/-", "/-/", "/-/mine", "/pool-status/"):
        with pytest.raises(Exception, match="expected another route"):
            await lab.apply(spec.having(msgspec.structs.replace(spec.apps[0], route=route)))


def test_28_bounds_of_exported_histograms_are_exact() -> None:
    histogram = Histogram()
    values = [255e-6, 257e-6, 511.9e-6, 513e-6, 1.5, 40.0]
    for value in values:
        histogram.record(value)
    bounds = [1 << power for power in range(8, 26)]
    assert histogram.below(*bounds) == [sum(value * 1e6 < bound for value in values) for bound in bounds]
    assert histogram.sum == pytest.approx(sum(values))
