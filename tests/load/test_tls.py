"""A lab whose listener speaks TLS: its own requests, load, a stranger with the certificate; and who may ask for it."""

import asyncio
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lab import bootstrap, report
from lab.core.model import AppSpec, ListenerSpec, PoolSettings, Tls
from lab.core.snapshot import LabSnapshot
from lab.engine.lab import LabSpec
from lab.load import runner
from lab.load.profiles import Profile
from lab.tui.widgets.flow import Flow

LISTENER = ListenerSpec(port=0, tls=Tls.SELF_SIGNED)


@pytest.fixture
async def lab():
    source = str(Path(__file__).with_name("answering.py"))
    pool = PoolSettings(max_workers=1)
    app = AppSpec(name="search", route="/api/search", language="python", source=source, concurrency=32, pool=pool)
    lab = bootstrap.local_lab(LabSpec(name="tls", listener=LISTENER, apps=(app,), own_rate=0), control=None)
    await asyncio.to_thread(lab.start)
    await until(lab, lambda now: now.apps[0].workers and now.apps[0].workers[0].routed)
    yield lab
    await lab.close()


async def until(lab, condition) -> LabSnapshot:
    async with asyncio.timeout(30):
        while not condition(snapshot := await lab.snapshot()):
            await lab.events(snapshot.events_next, wait=0.1)
    return snapshot


async def test_28_tls_a_handshake_that_fails_is_seen_wherever_people_and_programs_look(lab) -> None:
    snapshot = await lab.snapshot()
    with pytest.raises(urllib.error.URLError, match="certificate verify failed"):
        await asyncio.to_thread(urllib.request.urlopen, snapshot.listener, timeout=40)
    snapshot = await until(lab, lambda now: now.proxy.handshakes_failed)
    assert snapshot.proxy.handshakes_failed == {"certificate refused": 1}
    assert "\nTLS handshakes that failed: certificate refused 1\n" in await report.status(lab, snapshot, full=False)
    context = ssl.create_default_context(cafile=snapshot.certificate)
    url = f"{snapshot.listener}/-/metrics"
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, context=context, timeout=40).read())
    assert b'\ncgilab_tls_handshakes_failed_total{cause="certificate refused"} 1.0\n' in page
    assert b"\ncgilab_tls_handshakes 0.0\n" in page


async def test_tls_everybody_who_asks_a_lab_is_answered(lab) -> None:
    snapshot = await lab.snapshot()
    assert snapshot.listener == f"https://127.0.0.1:{snapshot.port}"

    answer = await lab.request("search")
    assert answer.status == 200
    await lab.traffic(50)
    totals = (await until(lab, lambda now: now.own.totals.answered > 5)).own.totals
    assert (totals.failed, totals.shed) == (0, 0)
    await lab.traffic(0)

    assert snapshot.certificate is not None
    context = ssl.create_default_context(cafile=snapshot.certificate)
    url = f"{snapshot.listener}/api/search"
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, context=context, timeout=40).read())
    assert page

    result = await (await runner.start(lab, Profile(target="search", users=5, seconds=1))).result()
    assert (result.failed, result.sent) == (0, result.answered)
    assert result.answered > 0


async def test_tls_the_command_to_copy_names_the_certificate(lab) -> None:
    flow = Flow()
    snapshot = await lab.snapshot()
    flow._snapshot = snapshot
    assert flow.to_copy == f"curl --cacert '{snapshot.certificate}' '{snapshot.listener}/api/search'"
