"""Point 23: the circuit breaker, with a clock that the tests turn by hand."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lab.core.model import BreakerSpec
from lab.core.states import BreakerState
from lab.proxy.breaker import Breaker, Verdict, Window

SPEC = BreakerSpec(failures=3, window=10, open_for=5)
WHY = "It broke."


def opened(spec: BreakerSpec = SPEC, now: float = 0.0) -> Breaker:
    breaker = Breaker(spec, now)
    for _ in range(spec.failures):
        breaker.failed(now, WHY)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_23_opens_at_so_many_failures_within_the_window_and_says_why() -> None:
    breaker = Breaker(SPEC, 0.0)
    assert breaker.failed(1.0, WHY) is None
    assert breaker.failed(2.0, WHY) is None
    transition = breaker.failed(3.0, "It was reset.")
    assert transition is not None
    assert (transition.before, transition.after) == (BreakerState.CLOSED, BreakerState.OPEN)
    assert transition.why == "3 requests failed within 10 s. The last one: It was reset."
    assert breaker.opened == 1


def test_23_failures_further_apart_than_the_window_do_not_open_it() -> None:
    breaker = Breaker(SPEC, 0.0)
    for now in range(0, 100, 6):
        assert breaker.failed(float(now), WHY) is None


def test_23_opens_at_a_rate_only_when_there_were_enough_requests() -> None:
    breaker = Breaker(BreakerSpec(failure_rate=50, min_requests=10), 0.0)
    for _ in range(4):
        assert breaker.failed(0.0, WHY) is None
    for _ in range(5):
        assert breaker.succeeded(0.0) is None
    transition = breaker.failed(0.0, WHY)
    assert transition is not None
    assert "5 of 10 requests failed" in transition.why


def test_23_below_the_rate_it_stays_closed() -> None:
    breaker = Breaker(BreakerSpec(failure_rate=50, min_requests=10), 0.0)
    for number in range(1000):
        assert breaker.succeeded(number * 0.01) is None
        if number % 2:
            assert breaker.failed(number * 0.01, WHY) is None


def test_23_while_open_everybody_is_refused_and_told_how_long() -> None:
    breaker = opened(now=100.0)
    assert breaker.ask(104.9)[0] is Verdict.REFUSE
    assert breaker.wait(102.0) == 3.0
    assert breaker.why


def test_23_half_open_lets_exactly_one_request_through() -> None:
    breaker = opened()
    verdict, transition = breaker.ask(5.0)
    assert verdict is Verdict.PROBE
    assert transition is not None
    assert transition.after is BreakerState.HALF_OPEN
    assert [breaker.ask(5.0 + second)[0] for second in range(100)] == [Verdict.REFUSE] * 100


def test_23_the_probes_success_closes_it_and_forgets_what_was_counted() -> None:
    breaker = opened()
    breaker.ask(5.0)
    transition = breaker.succeeded(5.1, probe=True)
    assert transition is not None
    assert transition.after is BreakerState.CLOSED
    assert breaker.ask(5.1)[0] is Verdict.PASS
    assert breaker.failed(5.2, WHY) is None
    assert breaker.failed(5.2, WHY) is None


def test_23_the_probes_failure_opens_it_for_as_long_again() -> None:
    breaker = opened()
    breaker.ask(5.0)
    transition = breaker.failed(7.0, WHY, probe=True)
    assert transition is not None
    assert transition.why == "The probe failed: It broke."
    assert breaker.wait(7.0) == 5.0
    assert breaker.ask(11.9)[0] is Verdict.REFUSE
    assert breaker.ask(12.0)[0] is Verdict.PROBE


def test_23_a_probe_that_told_nothing_gives_its_turn_to_the_next_request() -> None:
    breaker = opened()
    breaker.ask(5.0)
    breaker.left()
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.ask(5.0) == (Verdict.PROBE, None)
    assert breaker.ask(5.0)[0] is Verdict.REFUSE


def test_23_requests_from_before_it_opened_decide_nothing() -> None:
    breaker = opened()
    assert breaker.succeeded(1.0) is None
    breaker.ask(5.0)
    assert breaker.succeeded(5.0) is None
    assert breaker.failed(5.0, WHY) is None
    assert breaker.state is BreakerState.HALF_OPEN


def test_23_the_window_forgets() -> None:
    window = Window(10.0, 0.0)
    window.count(0.5, failed=True)
    window.count(9.9, failed=False)
    assert (window.good, window.bad) == (1, 1)
    window.count(10.5, failed=False)
    assert (window.good, window.bad) == (2, 0)
    window.count(1000.0, failed=True)
    assert (window.good, window.bad) == (0, 1)


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: one probe at a time, and only what the drawing in breaker.py shows."""

    @initialize(failures=st.integers(1, 4), rate=st.sampled_from([0.0, 50.0]))
    def begin(self, failures: int, rate: float) -> None:
        self.now = 0.0
        self.breaker = Breaker(BreakerSpec(failures=failures, failure_rate=rate, min_requests=4, open_for=5), 0.0)
        self.inside = 0
        self.probing = False
        self.before = BreakerState.CLOSED

    @rule(seconds=st.floats(0, 7))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def come(self) -> None:
        was, foreseen = self.breaker.state, self.breaker.refuses(self.now)
        assert self.breaker.state is was
        verdict, _ = self.breaker.ask(self.now)
        assert (verdict is Verdict.REFUSE) == foreseen
        assert (verdict is Verdict.PASS) == (was is BreakerState.CLOSED)
        if verdict is Verdict.PROBE:
            assert not self.probing
            self.probing = True
        self.inside += verdict is Verdict.PASS

    @precondition(lambda self: self.inside)
    @rule(well=st.booleans())
    def end(self, well: bool) -> None:
        self.inside -= 1
        was = self.breaker.state
        told = self.breaker.succeeded(self.now) if well else self.breaker.failed(self.now, WHY)
        if told is not None:
            assert not well
            assert was is BreakerState.CLOSED

    @precondition(lambda self: self.probing)
    @rule(how=st.sampled_from(["answered", "failed", "left"]))
    def end_probe(self, how: str) -> None:
        self.probing = False
        if how == "answered":
            self.breaker.succeeded(self.now, probe=True)
            assert self.breaker.state is BreakerState.CLOSED
        elif how == "failed":
            self.breaker.failed(self.now, WHY, probe=True)
            assert self.breaker.state is BreakerState.OPEN
        else:
            self.breaker.left()
            assert self.breaker.state is BreakerState.HALF_OPEN

    @invariant()
    def only_steps_of_the_drawing(self) -> None:
        if not hasattr(self, "breaker"):
            return
        step = (self.before, self.breaker.state)
        self.before = self.breaker.state
        assert step[0] is step[1] or step in {
            (BreakerState.CLOSED, BreakerState.OPEN),
            (BreakerState.OPEN, BreakerState.HALF_OPEN),
            (BreakerState.HALF_OPEN, BreakerState.OPEN),
            (BreakerState.HALF_OPEN, BreakerState.CLOSED),
        }
        assert not self.probing or self.breaker.state is BreakerState.HALF_OPEN
        assert bool(self.breaker.why) == (self.breaker.state is not BreakerState.CLOSED)


TestP23AnyOrder = AnyOrder.TestCase
TestP23AnyOrder.settings = settings(max_examples=60, deadline=None)
