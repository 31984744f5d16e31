"""How the screens look, at both sizes, as pictures. `pytest --snapshot-update` takes new ones; look at them before."""

import math
from collections.abc import Awaitable, Callable

import pytest
from fake_lab import FakeLab
from msgspec.structs import replace
from textual.pilot import Pilot

from lab.core.errors import NoLabError
from lab.core.model import AppSpec, Contract, Metric, PoolSettings, ScalingSpec
from lab.core.snapshot import ServiceSnapshot
from lab.core.states import Policy, ServiceState
from lab.engine.lab import LabSpec
from lab.tui.app import CgilabApp

SMALL, LARGE = (80, 24), (170, 50)
Compare = Callable[..., bool]


async def minute(lab: FakeLab, app: CgilabApp) -> None:
    """A minute of traffic that swells and ebbs."""
    for second in range(65):
        lab.rate = 312 + 120 * math.sin(second / 6)
        lab.advance(1.0)
        await app.bridge.poll()
    lab.rate = 312


def scene(lab: FakeLab, *keys: str, before: Callable[[FakeLab], None] | None = None) -> Callable[..., Awaitable[None]]:
    """A minute of traffic, what `before` does to the lab, then keys, each followed by a look."""

    async def play(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, CgilabApp)
        await minute(lab, app)
        if before is not None:
            before(lab)
        for key in ("", *keys):
            await pilot.press(*([key] if key else []))
            for order in [worker for worker in app.workers if worker.name != "bridge"]:
                await order.wait()
            lab.advance(0.2)
            await app.bridge.poll()
            await pilot.pause()

    return play


def trouble(lab: FakeLab) -> None:
    """One slot waits, one worker is frozen, one app cannot run."""
    lab.back_off("search", 2, 1.0, "three deaths in 4 s")
    lab.worker("search", 0).stopped = True
    lab.apps[1].unavailable = "python3 was not found. Install it: apt install python3"


def variety(lab: FakeLab) -> None:
    """A pool that could be larger, a worker that stands by, workers whose figures nobody can measure, a breach."""
    search, auth = lab.apps
    search.spec = replace(search.spec, pool=PoolSettings(policy=Policy.DYNAMIC, max_workers=8, standby=1))
    search.workers[2].standby = True
    for worker in auth.workers:
        worker.shared = True
    lab.invariants = replace(lab.invariants, probes_on_time=False)


def crowd() -> FakeLab:
    """Every kind of app: more than there is room for in full, and processes beside them."""
    kinds: list[tuple[str, str, Contract, PoolSettings]] = [
        ("search", "c", Contract.HTTP_PORT, PoolSettings(max_workers=3)),
        ("cart", "php", Contract.FASTCGI, PoolSettings(policy=Policy.DYNAMIC, min_workers=1, max_workers=5)),
        ("rates", "go", Contract.HTTP_UNIX, PoolSettings(max_workers=1)),
        ("forum", "ruby", Contract.HTTP_SHARED, PoolSettings(max_workers=3)),
        ("report", "java", Contract.HTTP_PORT, PoolSettings(policy=Policy.ONDEMAND, max_workers=4)),
        ("guestbook", "bash", Contract.CGI, PoolSettings()),
        ("recommendations", "python", Contract.HTTP_FD, PoolSettings(max_workers=2)),
        ("orders", "perl", Contract.HTTP_PORT, PoolSettings(max_workers=2)),
    ]
    apps = (
        AppSpec(name=name, route=f"/{name}", language=language, source="/lab/program", protocol=protocol, pool=pool)
        for name, language, protocol, pool in kinds
    )
    lab = FakeLab(LabSpec(apps=tuple(apps)))
    _, cart, rates, forum, report, _, _, orders = lab.apps
    cart.workers = cart.workers[:2]
    rates.spec = replace(rates.spec, scaling=ScalingSpec(metric=Metric.QUEUE, high=2, max_workers=8))
    for worker in forum.workers:
        worker.shared = True
    report.workers, orders.workers, orders.waits_for = [], [], ("stock",)
    lab.processes = [
        process("redis", ServiceState.HEALTHY, 4090),
        process("mailer", ServiceState.UNHEALTHY, 4091, "It refuses connections."),
        process("stock", ServiceState.STARTING, 4092),
    ]
    return lab


def process(name: str, state: ServiceState, pid: int, why: str = "") -> ServiceSnapshot:
    return ServiceSnapshot(
        name=name, state=state, pid=pid, health="tcp", restarts=0, needs=(), uptime_s=12.0, why=why
    )  # fmt: skip


def lost(lab: FakeLab) -> None:
    lab.gone = NoLabError("The lab went away.", "Start one: cgilab")


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_calm(snap_compare: Compare, size: tuple[int, int]) -> None:
    lab = FakeLab()
    assert snap_compare(CgilabApp(lab), terminal_size=size, run_before=scene(lab))


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_killed(snap_compare: Compare, size: tuple[int, int]) -> None:
    lab = FakeLab()
    assert snap_compare(CgilabApp(lab), terminal_size=size, run_before=scene(lab, "down", "k"))


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_trouble(snap_compare: Compare, size: tuple[int, int]) -> None:
    lab = FakeLab()
    assert snap_compare(CgilabApp(lab), terminal_size=size, run_before=scene(lab, "a", before=trouble))


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_variety(snap_compare: Compare, size: tuple[int, int]) -> None:
    lab = FakeLab()
    assert snap_compare(CgilabApp(lab), terminal_size=size, run_before=scene(lab, before=variety))


@pytest.mark.parametrize(("size", "keys"), [(SMALL, "w"), (SMALL, "f"), (LARGE, "w")], ids=["small", "flow", "large"])
def test_crowd(snap_compare: Compare, size: tuple[int, int], keys: str) -> None:
    assert snap_compare(CgilabApp(lab := crowd()), terminal_size=size, run_before=scene(lab, keys))


@pytest.mark.parametrize("pane", ["f", "c", "zb"], ids=["flow", "charts", "beliefs"])
def test_pane(snap_compare: Compare, pane: str) -> None:
    lab = FakeLab()
    assert snap_compare(CgilabApp(lab), terminal_size=SMALL, run_before=scene(lab, pane))


def test_read_only_and_lost(snap_compare: Compare) -> None:
    lab = FakeLab(read_only=True)
    assert snap_compare(CgilabApp(lab), terminal_size=SMALL, run_before=scene(lab, before=lost))


def test_ascii(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "linux")
    lab = FakeLab()
    assert snap_compare(CgilabApp(lab), terminal_size=LARGE, run_before=scene(lab, "k"))


def test_no_colour(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    lab = FakeLab()
    assert snap_compare(CgilabApp(lab), terminal_size=SMALL, run_before=scene(lab, "f", before=trouble))


def test_explained(snap_compare: Compare) -> None:
    lab = FakeLab()
    assert snap_compare(CgilabApp(lab), terminal_size=SMALL, run_before=scene(lab, "question_mark"))
