"""Autoscaling: the rules as tables, what must always hold as properties, and one lab under real load."""

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import bootstrap
from lab.core.events import EventKind
from lab.core.model import AppSpec, ListenerSpec, Metric, PoolSettings, ScalingSpec, Timeouts
from lab.engine.lab import LabSpec
from lab.engine.local import LocalLab
from lab.engine.scaling import LOOKS, Controller, Decision

THRESHOLDS = ScalingSpec(metric=Metric.CPU, high=70, low=30, min_workers=1, max_workers=8)
TARGET = ScalingSpec(metric=Metric.CPU, target=50, min_workers=1, max_workers=8)


def run(controller: Controller, workers: int, values: Iterable[float], start: float = 1000.0) -> list[Decision]:
    """One look a second; what is decided is done at once."""
    decisions = []
    for second, value in enumerate(values):
        decision = controller.look(start + second, workers, value)
        if decision is not None:
            decisions.append(decision)
            workers = decision.after
    return decisions


def first(spec: ScalingSpec, workers: int, value: float) -> tuple[int, int] | None:
    """The first thing that is decided about a steady value."""
    decisions = run(Controller(spec), workers, [value] * LOOKS)
    return (decisions[0].before, decisions[0].after) if decisions else None


@pytest.mark.parametrize(
    ("workers", "value", "expected"),
    [
        (2, 71, (2, 3)),
        (2, 70, None),
        (2, 30, None),
        (4, 29, (4, 3)),
        (1, 0, None),
        (8, 100, (8, 8)),
        (2, 29, (2, 1)),
        (9, 50, (9, 8)),
        (0, 50, (0, 1)),
    ],
)
def test_thresholds_add_one_above_high_and_take_one_below_low(
    workers: int, value: float, expected: tuple[int, int] | None
) -> None:
    assert first(THRESHOLDS, workers, value) == expected


def test_thresholds_take_none_when_those_that_stay_would_be_above_high_again() -> None:
    narrow = ScalingSpec(metric=Metric.CPU, high=50, low=40, max_workers=8)
    assert first(narrow, 2, 39) is None
    assert first(narrow, 5, 39) == (5, 4)


@pytest.mark.parametrize(
    ("workers", "value", "expected"),
    [
        (2, 100, (2, 4)),
        (3, 90, (3, 6)),
        (2, 55, None),
        (2, 45, None),
        (2, 56, (2, 3)),
        (4, 25, (4, 2)),
        (4, 0, (4, 1)),
        (4, 500, (4, 8)),
        (8, 500, (8, 8)),
    ],
)
def test_a_target_is_followed_as_kubernetes_does(workers: int, value: float, expected: tuple[int, int] | None) -> None:
    assert first(TARGET, workers, value) == expected


def test_one_look_is_no_reason_and_a_peak_is_averaged() -> None:
    assert run(Controller(THRESHOLDS), 2, [100] * (LOOKS - 1)) == []
    assert run(Controller(THRESHOLDS), 2, [40, 100, 40, 40]) == []


def test_after_a_change_nothing_grows_or_shrinks_before_its_pause_is_over() -> None:
    spec = ScalingSpec(metric=Metric.CPU, high=70, low=30, max_workers=8, up_cooldown=10, down_cooldown=20)
    grown = run(Controller(spec), 2, [90] * (LOOKS + 10))
    assert [one.after for one in grown] == [3, 4]
    shrunk = run(Controller(spec), 2, [90] * LOOKS + [10] * 20)
    assert [one.after for one in shrunk] == [3, 2]


def test_more_than_the_maximum_is_told_once_each_time_it_is_wanted() -> None:
    wanting, content = [90.0] * 10, [50.0] * 10
    decisions = run(Controller(THRESHOLDS), 8, wanting + content + wanting)
    assert [(one.before, one.after) for one in decisions] == [(8, 8), (8, 8)]
    assert "8 is the maximum" in decisions[0].why


def test_what_a_person_set_holds_until_the_pause_after_it_is_over() -> None:
    controller = Controller(ScalingSpec(metric=Metric.CPU, high=70, low=30, max_workers=8, down_cooldown=10))
    assert run(controller, 2, [50] * 5) == []
    assert run(controller, 6, [10] * 10, start=1005) == []
    assert [one.after for one in run(controller, 6, [10] * 2, start=1015)] == [5]


def test_why_tells_the_figures() -> None:
    (decision,) = run(Controller(TARGET), 2, [100] * LOOKS)
    assert decision.why == "100 % of a core a worker, the target is 50"


specs = st.one_of(
    st.builds(
        ScalingSpec,
        metric=st.sampled_from(Metric),
        target=st.floats(1, 100),
        min_workers=st.integers(1, 5),
        max_workers=st.integers(5, 12),
        up_cooldown=st.floats(0, 5),
        down_cooldown=st.floats(0, 5),
    ),
    st.builds(
        ScalingSpec,
        metric=st.sampled_from(Metric),
        high=st.floats(50, 100),
        low=st.floats(0, 49),
        step=st.integers(1, 4),
        min_workers=st.integers(1, 5),
        max_workers=st.integers(5, 12),
        up_cooldown=st.floats(0, 5),
        down_cooldown=st.floats(0, 5),
    ),
)


@given(specs, st.integers(0, 20), st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_no_decision_leaves_the_bounds(spec: ScalingSpec, workers: int, values: list[float]) -> None:
    for decision in run(Controller(spec), workers, values):
        assert spec.min_workers <= decision.after <= spec.max_workers


@given(
    st.integers(1, 8),
    st.lists(st.floats(THRESHOLDS.low, THRESHOLDS.high), min_size=LOOKS, max_size=60),
)
def test_nothing_changes_within_the_band(workers: int, values: list[float]) -> None:
    assert run(Controller(THRESHOLDS), workers, values) == []


narrow = st.builds(
    ScalingSpec,
    metric=st.sampled_from([Metric.CPU, Metric.IN_FLIGHT, Metric.RPS]),
    high=st.just(50),
    low=st.integers(40, 50),
    step=st.integers(1, 4),
    min_workers=st.just(1),
    max_workers=st.just(12),
    up_cooldown=st.just(0),
    down_cooldown=st.just(0),
)
"""Bands that are narrower than what one worker carries: the hardest to stay calm in."""


@settings(max_examples=300)
@given(st.one_of(narrow, specs), st.integers(2, 12), st.integers(0, 600))
def test_a_steady_load_is_answered_in_one_direction_only(spec: ScalingSpec, workers: int, load: int) -> None:
    """Whatever the load, pools do not swing: the load is shared out among however many workers there are."""
    controller, now, directions = Controller(spec), 1000.0, set()
    workers = min(max(workers, spec.min_workers), spec.max_workers)
    for _ in range(40):
        now += 1.0
        shared = load if spec.metric in (Metric.QUEUE, Metric.MEMORY) else load / workers
        decision = controller.look(now, workers, shared)
        if decision is not None and decision.after != workers:
            directions.add(decision.after > workers)
            workers = decision.after
    assert len(directions) <= 1


def test_a_mean_that_is_a_hair_above_what_was_seen_is_not_worth_a_worker() -> None:
    spec = ScalingSpec(metric=Metric.CPU, target=1, min_workers=1, max_workers=9)
    assert [decision.after for decision in run(Controller(spec), 5, [1.6] * LOOKS)] == [8]


SLEEPY = """
import http.server, sys, time
class Sleepy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/health":
            time.sleep(0.05)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *said):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Sleepy).serve_forever()
"""


async def test_a_lab_under_load_gets_more_workers_and_gives_them_back(tmp_path: Path) -> None:
    source = tmp_path / "sleepy.py"
    source.write_text(SLEEPY)
    scaling = ScalingSpec(
        metric=Metric.IN_FLIGHT, high=0.9, low=0.2, min_workers=1, max_workers=3, up_cooldown=0, down_cooldown=0
    )
    app = AppSpec(
        name="sleepy",
        route="/sleepy",
        language="python",
        source=str(source),
        pool=PoolSettings(max_workers=1, start_timeout=20),
        timeouts=Timeouts(queue=20),
        scaling=scaling,
    )
    lab = bootstrap.local_lab(
        LabSpec(name="scaling", listener=ListenerSpec(port=0), apps=(app,), own_rate=0), control=None
    )
    await asyncio.to_thread(lab.start)
    try:
        users = [asyncio.create_task(use(lab)) for _ in range(6)]
        grown = [await until_decision(lab, before) for before in (1, 2)]
        assert [one["to"] for one in grown] == [2, 3]
        assert (await lab.spec()).apps[0].pool.max_workers == 3
        for user in users:
            user.cancel()
        assert (await until_decision(lab, 3, 2))["to"] == 2
    finally:
        await lab.close()


async def use(lab: LocalLab) -> None:
    """One user who asks as soon as the last answer came."""
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await lab.request("sleepy")


async def until_decision(lab: LocalLab, before: int, after: int | None = None) -> dict[str, object]:
    """The first decision at so many workers that changed their number."""
    cursor = 1
    async with asyncio.timeout(40):
        while True:
            batch = await lab.events(cursor, wait=5)
            cursor = batch.next
            for event in batch.events:
                data = event.data
                if event.kind is EventKind.DECISION and data["from"] == before != data["to"] == (after or before + 1):
                    assert event.text.startswith("sleepy: ")
                    return data
