"""Point 17: what is counted where a route and an app meet, summed up for either, however routes come and go."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.core.clock import ManualClock
from lab.core.events import EventRing
from lab.core.model import RouteSpec
from lab.proxy.accounting import Tally
from lab.proxy.backends.python_builtin.branch import Branch, RouteState, base, view
from lab.proxy.backends.python_builtin.gateway import Gateway, ignore, no_cgi
from lab.proxy.backends.python_builtin.upstream import Upstream
from lab.proxy.manager import UpstreamSpec


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def upstream(clock: ManualClock, tmp_path: Path) -> Upstream:
    events = EventRing(clock)
    gateway = Gateway(clock, events, no_cgi, ignore, tmp_path)
    return Upstream(UpstreamSpec(app="app", route="/app"), gateway, events)


def answered(branch: Branch, times: int, took: float = 0.001, status: int = 200, own: int = 0) -> None:
    """Let it have so many requests, each answered at once."""
    branch.accepted += times
    for _ in range(times):
        branch.tallies[own].record(took)
        branch.tallies[own].classes[status // 100] += 1
        branch.tallies[own].sent += 5


def second(clock: ManualClock, *routes: str) -> Callable[[Upstream], None]:
    """Let a second pass, in which there are these routes."""

    def pass_by(upstream: Upstream) -> None:
        clock.advance(1.0)
        upstream.mark(clock.monotonic(), {"app", *routes})

    return pass_by


def test_17_an_app_has_had_what_came_by_all_routes(upstream: Upstream, clock: ManualClock) -> None:
    answered(upstream.branch, 3)
    answered(upstream.branch_of("r"), 4, status=503)
    answered(upstream.branch_of("s"), 2, own=1)
    everybody, own = upstream.latencies
    assert (everybody.total.total, everybody.classes[2], everybody.classes[5], everybody.sent) == (7, 3, 4, 35)
    assert (own.total.total, own.classes[2]) == (2, 2)
    clock.advance(3.0)
    seen = upstream.view((), clock.monotonic())
    assert (seen.accepted, seen.rps) == (9, 3.0)


def test_17_of_a_route_that_went_the_sum_stays_and_the_last_seconds_do_not_jump(
    upstream: Upstream, clock: ManualClock
) -> None:
    answered(upstream.branch_of("r"), 50)
    for _ in range(15):
        second(clock, "r")(upstream)
    answered(upstream.branch, 10)
    second(clock)(upstream)
    seen = upstream.view((), clock.monotonic())
    everybody, _ = upstream.latencies
    assert (seen.accepted, everybody.total.total, everybody.sent) == (60, 60, 300)
    assert seen.rps == pytest.approx(1.0, rel=0.2), "ten of sixty were within the last ten seconds"
    assert upstream.branch_of("r").accepted == 0, "a route of the same name begins anew"


def test_17_a_route_that_went_is_waited_for_while_it_has_requests(upstream: Upstream, clock: ManualClock) -> None:
    branch = upstream.branch_of("r")
    branch.accepted += 1
    second(clock)(upstream)
    assert upstream.branch_of("r") is branch
    branch.unanswered += 1
    second(clock)(upstream)
    assert upstream.branch_of("r") is not branch
    figures = upstream.figures()
    assert (upstream.view((), clock.monotonic()).accepted, figures.in_flight) == (1, 0)


def test_17_shares_are_those_of_the_last_ten_seconds() -> None:
    one, other = Branch("r", "one", 0.0), Branch("r", "other", 0.0)
    spec = RouteSpec(name="r", apps={"one": 1, "other": 1})
    assert [lead.share for lead in view(spec, [one, other], [one, other], 0.0).leads] == [None, None]
    one.accepted, other.accepted = 90, 10
    assert [lead.share for lead in view(spec, [one, other], [one, other], 0.0).leads] == [90.0, 10.0]
    for now in range(1, 12):
        one.mark(float(now))
        other.mark(float(now))
    other.accepted += 5
    seen = view(spec, [one, other], [one, other], 11.0)
    assert [(lead.share, lead.requests) for lead in seen.leads] == [(0.0, 90), (100.0, 15)]


def test_17_other_weights_begin_the_turns_anew_and_the_same_ones_do_not() -> None:
    state = RouteState(RouteSpec(name="r", apps={"one": 2, "other": 1}), ignore, 0.0)
    state.branches = {app: Branch("r", app, 0.0) for app in ("one", "other")}
    state.apply(state.spec)
    one, other = state.branches.values()
    one.credit, other.credit = -1, 1
    state.apply(RouteSpec(name="r", apps={"one": 2, "other": 1}, strip_prefix=True, path="/x"))
    assert (one.credit, other.credit, one.strip) == (-1, 1, b"/x")
    state.apply(RouteSpec(name="r", apps={"one": 2, "other": 2}))
    assert (one.credit, other.credit, other.weight, one.strip) == (0, 0, 2, b"")


@pytest.mark.parametrize(
    ("path", "rewrite", "own", "expected"),
    [
        ("/r", "", "/app", "/r"),
        ("/r/", "", "/app", "/r"),
        ("/", "", "/app", ""),
        ("/app", "", "/app", "/app"),
        ("/app/deep", "", "/app", "/app"),
        ("/application", "", "/app", "/application"),
        ("/r", "/app/deep", "/app", "/app"),
        ("/r", "/v2", "/app", "/v2"),
        ("/r", "", "/", "/"),
    ],
)
def test_17_what_leads_to_an_app_is_its_own_route_wherever_that_is_on_the_way(
    path: str, rewrite: str, own: str, expected: str
) -> None:
    assert base(RouteSpec(name="r", apps={"a": 1}, path=path, rewrite=rewrite), own) == expected


def test_tallies_together_are_their_sum_with_all_stages() -> None:
    one, other = Tally(0.0), Tally(4.0)
    for tally, took in ((one, 0.001), (other, 0.1)):
        tally.record(took)
        tally.stages(0.0, took / 4, took / 2, took)
        tally.classes[2] += 1
        tally.received += 7
    one.stages(0.5, 0.0, 0.0, 0.6)
    one.record(0.6)
    both = Tally.together([one, other])
    assert (both.total.total, both.classes[2], both.received) == (3, 2, 14)
    assert both.queue.total == both.connect.total == 3
    assert both.queue.quantile(1.0) == pytest.approx(0.5, rel=0.02)
    assert both.connect.quantile(1.0) == pytest.approx(0.025, rel=0.02)
    assert both.recent(10.0).rps == 0.3
    assert Tally.together([one]) is one
    assert (one.total.total, other.total.total) == (2, 1), "what was summed up stays as it was"
