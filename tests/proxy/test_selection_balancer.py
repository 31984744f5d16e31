"""The endpoints with a place are always exactly those that are offered, whatever comes, goes, fills up or falls ill."""

import asyncio
from collections import OrderedDict

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import integers, sampled_from

from lab import plugins
from lab.core.clock import ManualClock
from lab.core.events import EventKind, EventRing
from lab.core.model import Endpoint, Queue, WorkerId
from lab.proxy.backends.python_builtin import PythonBuiltinProxy
from lab.proxy.manager import ProxySpec, UpstreamSpec

SLOTS = 6
POLICIES = ("round_robin", "two_choices", "consistent_hash", "sticky_cookie")


def endpoint(slot: int) -> Endpoint:
    return Endpoint("app", WorkerId("app", slot, 1), "127.0.0.1", 1, concurrency=1 + slot % 3)


class Offers(RuleBasedStateMachine):
    """A proxy without clients: places are taken and given back by probes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.proxy = PythonBuiltinProxy(self.clock, EventRing(self.clock))
        self.taken = dict.fromkeys(range(SLOTS), 0)

    @initialize(name=sampled_from(POLICIES))
    def begin(self, name: str) -> None:
        self.spec = UpstreamSpec(app="app", route="/", selection=name)
        self.become(selection=name)
        self.upstream = self.proxy._upstreams["app"]

    def become(self, **changes: object) -> None:
        known = {field: getattr(self.spec, field) for field in ("selection", "queue", "slow_start", "weights")}
        self.spec = UpstreamSpec(app="app", route="/", **(known | changes))
        asyncio.run(self.proxy.apply(ProxySpec(upstreams=(self.spec,))))

    @rule(slot=integers(0, SLOTS - 1))
    def add(self, slot: int) -> None:
        self.proxy.add(endpoint(slot))

    @rule(slot=integers(0, SLOTS - 1))
    def remove(self, slot: int) -> None:
        self.proxy.remove(endpoint(slot))

    @rule(slot=integers(0, SLOTS - 1))
    def take(self, slot: int) -> None:
        self.taken[slot] += self.proxy.acquire(endpoint(slot))

    @rule(slot=integers(0, SLOTS - 1))
    def give_back(self, slot: int) -> None:
        if self.taken[slot]:
            self.taken[slot] -= 1
            self.proxy.release(endpoint(slot))

    @rule(slot=integers(0, SLOTS - 1), held=sampled_from([True, False]))
    def hold_back(self, slot: int, held: bool) -> None:
        state = self.proxy._endpoints.get(endpoint(slot))
        if state is not None and state.routed:
            self.upstream.hold_back(state, held)

    @rule(queue=sampled_from(Queue))
    def queue(self, queue: Queue) -> None:
        self.become(queue=queue)

    @rule(name=sampled_from(POLICIES))
    def choose_otherwise(self, name: str) -> None:
        self.become(selection=name)

    @rule(weights=sampled_from([(), (3,), (1, 100)]), seconds=sampled_from([0.0, 5.0]))
    def weigh(self, weights: tuple[int, ...], seconds: float) -> None:
        self.become(weights=weights, slow_start=seconds)

    @invariant()
    def who_has_a_place_is_offered(self) -> None:
        balancer = self.proxy._upstreams["app"]._balancer if self.proxy._upstreams else None
        if balancer is None:
            return
        states = self.proxy._endpoints.values()
        endless = self.spec.queue is Queue.WORKER
        may = {state for state in states if state.eligible and (endless or state.in_flight < state.places)}
        assert set(balancer.offered) == may
        assert len(balancer.offered) == len(may)
        assert all(balancer.offered[state.position] is state for state in may)
        assert all(state.position < 0 for state in states if state not in may)
        assert balancer.everyone == tuple(sorted((one for one in states if one.routed), key=lambda one: one.slot))
        line = getattr(balancer._policy, "_line", None)
        assert line is None or (isinstance(line, OrderedDict) and set(line) == may)

    @invariant()
    def who_is_idle_is_counted(self) -> None:
        if self.proxy._upstreams:
            idle = [state for state in self.proxy._endpoints.values() if state.eligible and not state.in_flight]
            assert self.proxy._upstreams["app"]._idle == len(idle)


Offers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestP18OffersAreKeptUpToDate = Offers.TestCase


def test_18_a_policy_that_somebody_installed_and_that_does_not_load_is_told_and_stood_in_for(tmp_path, monkeypatch):
    installed = tmp_path / "broken-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[cgilab.selection]\nbroken = nowhere.at.all:Policy\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._registered.cache_clear()
    try:
        assert "broken" in plugins.names("cgilab.selection")
        events = EventRing(ManualClock())
        proxy = PythonBuiltinProxy(ManualClock(), events)
        asyncio.run(proxy.apply(ProxySpec(upstreams=(UpstreamSpec(app="app", route="/", selection="broken"),))))
        proxy.add(endpoint(0))
    finally:
        plugins._registered.cache_clear()
    (told,) = events.read().events
    assert told.kind is EventKind.SELECTION
    assert "'broken' (nowhere.at.all:Policy) cannot be loaded: No module named 'nowhere'" in told.text
    assert told.text.endswith("Requests go on by round robin")
    assert len(proxy._upstreams["app"]._balancer.offered) == 1
