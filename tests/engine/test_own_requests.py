"""The lab's own requests ask each app what it can answer: none that waits, and a site at its front page."""

import asyncio
import contextlib
import socket
from pathlib import Path

import msgspec
import pytest

from lab import bootstrap
from lab.core.model import (
    AppSpec,
    Contract,
    HealthMethod,
    ListenerSpec,
    Metric,
    PoolSettings,
    ScalingSpec,
    ServiceHealth,
    ServiceSpec,
    SiteSpec,
)
from lab.core.snapshot import LabSnapshot, ScalingSnapshot
from lab.core.states import Policy
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab

PAGE = 'print("Content-Type: text/plain\\n\\nwelcome")\n'


def spec(folder: Path) -> LabSpec:
    """A site that is a program per request, and an app that needs a process that is healthy once `healthy` exists."""
    (folder / "index.py").write_text(PAGE)
    root = SiteSpec(root=str(folder), index=("index.py",), scripts=(".py",))
    source = str(folder / "index.py")
    site = AppSpec(name="site", route="/site", language="python", source=source, protocol=Contract.CGI, site=root)
    health = ServiceHealth(method=HealthMethod.FILE, path=str(folder / "healthy"), interval=0.02)
    needed = ServiceSpec(name="db", command=("sleep", "1000"), health=health)
    shop = AppSpec(
        name="shop",
        route="/shop",
        language="python",
        source=str(bootstrap.default_manifest().parent / "search" / "python" / "search.py"),
        needs=("db",),
        pool=PoolSettings(policy=Policy.DYNAMIC, min_workers=1, max_workers=2, start_timeout=30),
        scaling=ScalingSpec(metric=Metric.QUEUE, high=2, min_workers=2, max_workers=6),
    )
    return LabSpec(name="own", listener=ListenerSpec(port=0), apps=(shop, site), processes=(needed,), own_rate=20)


async def asked(lab: LocalLab, app: int, since: int = 0) -> LabSnapshot:
    """Wait until app number `app` has been asked, and the lab has sent more than `since` requests."""
    async with asyncio.timeout(30):
        while True:
            snapshot = await lab.snapshot()
            if snapshot.apps[app].rps > 0 and snapshot.own.totals.answered > since:
                return snapshot
            await lab.events(snapshot.events_next, wait=0.1)


def addresses() -> list[str]:
    """Where a lab may listen on this machine."""
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return ["127.0.0.1", "0.0.0.0", "::1", "::"]
    return ["127.0.0.1", "0.0.0.0"]


@pytest.mark.parametrize("host", addresses())
async def test_wherever_the_lab_listens_its_own_requests_are_answered_and_counted_apart(
    host: str, tmp_path: Path
) -> None:
    lab = bootstrap.local_lab(
        msgspec.structs.replace(spec(tmp_path), listener=ListenerSpec(host=host, port=0)), control=None
    )
    await asyncio.to_thread(lab.start)
    try:
        snapshot = await asked(lab, app=1)
        assert snapshot.own.totals.answered > 0
        assert snapshot.totals.accepted == 0
        assert (await lab.request("site")).status == 200
    finally:
        await lab.close()


async def test_an_app_that_waits_is_not_asked_and_a_site_is_asked_for_its_front_page(tmp_path: Path) -> None:
    lab = bootstrap.local_lab(spec(tmp_path), control=None)
    await asyncio.to_thread(lab.start)
    try:
        snapshot = await asked(lab, app=1, since=5)
        assert snapshot.apps[0].waits_for == ("db",)
        assert snapshot.apps[0].rps == 0
        assert (snapshot.own.totals.failed, snapshot.own.totals.shed) == (0, 0)
        answer = await lab.request("site")
        assert (answer.status, answer.body.strip()) == (200, "welcome")
        (tmp_path / "healthy").touch()
        await asked(lab, app=0)
    finally:
        await lab.close()


async def test_a_snapshot_has_the_bounds_of_a_pool_and_those_of_its_scaling(tmp_path: Path) -> None:
    lab = bootstrap.local_lab(spec(tmp_path), control=None)
    await asyncio.to_thread(lab.start)
    try:
        shop, site = (await lab.snapshot()).apps
        assert (shop.min_workers, shop.max_workers) == (1, 2)
        assert shop.scaling == ScalingSnapshot(metric="queue", min_workers=2, max_workers=6)
        assert (site.min_workers, site.max_workers, site.scaling) == (2, 2, None)
    finally:
        await lab.close()
