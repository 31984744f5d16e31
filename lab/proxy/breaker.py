"""Circuit breaker: whether an app is asked at all. Pure: what happened and what time it is go in, decisions come out.

An app that fails because it has too much to do recovers only when it gets less, and clients that wait for a failure
hold memory and connections meanwhile. So after too many failures everybody is refused at once for a while; then one
request passes as a probe, and its fate alone decides (M. Nygard, Release It!, 5.2).

    CLOSED -- too many failures --> OPEN -- open_for has passed, a request comes --> HALF_OPEN
       ^                             ^                                                  |   |
       |                             +--------------- the probe failed -----------------+   |
       +------------------------------- the probe was answered -----------------------------+
"""

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from lab.core.model import BreakerSpec
from lab.core.states import BreakerState

_PARTS: Final = 10
"""The window moves by a tenth of its length."""


class Verdict(Enum):
    """What becomes of a request that comes."""

    PASS = auto()
    PROBE = auto()
    """It passes, and what becomes of it decides: `succeeded`, `failed` or `left` is called for it, with `probe`."""
    REFUSE = auto()


@dataclass(frozen=True, slots=True)
class Transition:
    """The breaker went from one state to another."""

    before: BreakerState
    after: BreakerState
    why: str
    """One sentence."""


class Breaker:
    """One app's breaker. Every time is in monotonic seconds, and never goes back."""

    def __init__(self, spec: BreakerSpec, now: float) -> None:
        self.spec = spec
        self.state = BreakerState.CLOSED
        self.why = ""
        """Why it is not closed, as a sentence."""
        self.opened = 0
        """How often it has opened."""
        self._until = -math.inf
        """While it is open: when a request may pass as a probe."""
        self._probing = False
        self._window = Window(spec.window, now)

    def apply(self, spec: BreakerSpec, now: float) -> None:
        """Follow new settings. The state stays; what was counted is forgotten when the window has another length."""
        if spec.window != self.spec.window:
            self._window = Window(spec.window, now)
        self.spec = spec

    def ask(self, now: float) -> tuple[Verdict, Transition | None]:
        """May a request that comes now pass? Each `PROBE` is followed by one `succeeded`, `failed` or `left`."""
        if self.state is BreakerState.CLOSED:
            return Verdict.PASS, None
        if self.state is BreakerState.OPEN and now >= self._until:
            self._probing = True
            return Verdict.PROBE, self._become(BreakerState.HALF_OPEN, "One request passes as a probe.")
        if self.state is BreakerState.HALF_OPEN and not self._probing:
            self._probing = True
            return Verdict.PROBE, None
        return Verdict.REFUSE, None

    def refuses(self, now: float) -> bool:
        """Whether `ask` would refuse a request that comes now. Nothing changes by it."""
        if self.state is BreakerState.OPEN:
            return now < self._until
        return self.state is BreakerState.HALF_OPEN and self._probing

    def succeeded(self, now: float, probe: bool = False) -> Transition | None:
        """A request that had passed was answered. Those from before the breaker opened decide nothing any more."""
        if probe:
            self._probing = False
            self._window = Window(self.spec.window, now)
            return self._become(BreakerState.CLOSED, "The probe was answered.")
        if self.state is BreakerState.CLOSED:
            self._window.count(now, failed=False)
        return None

    def failed(self, now: float, why: str, probe: bool = False) -> Transition | None:
        """It failed, for the reason `why`: one sentence."""
        if probe:
            self._probing = False
            return self._open(now, f"The probe failed: {why}")
        if self.state is not BreakerState.CLOSED:
            return None
        self._window.count(now, failed=True)
        reason = self._too_much()
        return self._open(now, f"{reason} The last one: {why}") if reason else None

    def left(self) -> None:
        """The probe told nothing (its client left, or it found no worker), so the next request is one."""
        self._probing = False

    def wait(self, now: float) -> float:
        """Seconds until a request may pass as a probe; 0 when one may now, or is under way."""
        return max(0.0, self._until - now) if self.state is BreakerState.OPEN else 0.0

    def _too_much(self) -> str:
        spec, window = self.spec, self._window
        if spec.failures and window.bad >= spec.failures:
            return f"{window.bad} requests failed within {spec.window:g} s."
        asked = window.good + window.bad
        if spec.failure_rate and asked >= spec.min_requests and window.bad * 100 >= spec.failure_rate * asked:
            return f"{window.bad} of {asked} requests failed within {spec.window:g} s."
        return ""

    def _open(self, now: float, why: str) -> Transition:
        self._until = now + self.spec.open_for
        self.opened += 1
        return self._become(BreakerState.OPEN, why)

    def _become(self, state: BreakerState, why: str) -> Transition:
        transition = Transition(self.state, state, why)
        self.state = state
        self.why = "" if state is BreakerState.CLOSED else why
        return transition


class Window:
    """What went well or badly in the last `length` seconds, forgotten by tenths of it."""

    def __init__(self, length: float, now: float) -> None:
        self.good = self.bad = 0
        """As of the last `count`."""
        self._part = length / _PARTS
        self._begin = now
        self._at = 0
        self._parts = [[0, 0] for _ in range(_PARTS)]

    def count(self, now: float, failed: bool) -> None:
        """Something went well, or failed."""
        at = int((now - self._begin) / self._part)
        for passed in range(self._at + 1, min(at, self._at + _PARTS) + 1):
            old = self._parts[passed % _PARTS]
            self.good -= old[0]
            self.bad -= old[1]
            old[:] = 0, 0
        self._at = at
        self._parts[at % _PARTS][failed] += 1
        self.good += not failed
        self.bad += failed
