"""How many workers one pool is to have: asks its policy, and keeps what came of that within the settings' bounds."""

from collections.abc import Iterable
from dataclasses import replace

from lab.core.model import PoolSettings
from lab.core.states import Policy
from lab.pool.manager import Routing
from lab.pool.place import Place
from lab.pool.policies import POLICIES, Census, Decision, Idle


class Sizing:
    """Of one pool, without its standbys. Pure: it says what to do, and the supervisor does it."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._policy = POLICIES[settings.policy]()
        self.target = self._within(self._policy.begin(settings))
        """How many workers there should be."""
        self.times_limited = 0
        """How often `max_workers` were running and more were needed."""
        self._limited = False

    @property
    def follows_load(self) -> bool:
        """Whether it has to be asked at all: `static` need not, so nobody has to be counted for it."""
        return self._settings.policy is not Policy.STATIC

    @property
    def is_full(self) -> bool:
        """There is no room, and this was said: to be starved once more changes nothing."""
        return self._limited and self.target >= self._settings.max_workers

    def change(self, settings: PoolSettings, *, anew: bool) -> None:
        """These settings hold from now on. Workers that are there stay, as far as there may be so many, unless the pool
        begins `anew`."""
        if settings.policy is not self._settings.policy:
            self._policy = POLICIES[settings.policy]()
        self._settings = settings
        self.target = self._within(self._policy.begin(settings) if anew else self.target)

    def tick(self, census: Census, *, may_grow: bool) -> Decision:
        """A second has passed. Returns what to do; `limited` only when the limit was reached just now."""
        return self._carry_out(self._policy.tick(self._settings, census), may_grow)

    def starved(self, census: Census, *, may_grow: bool) -> Decision:
        """A request found no idle worker. Returns the same as `tick`."""
        return self._carry_out(self._policy.starved(self._settings, census), may_grow)

    def _carry_out(self, decision: Decision, may_grow: bool) -> Decision:
        start = decision.start if may_grow else 0
        news = decision.limited and not self._limited
        self.times_limited += news
        self._limited = (self._limited or decision.limited) and not start  # it may be told again after it has grown
        self.target = self._within(self.target + start - len(decision.stop))
        return replace(decision, start=start, limited=news)

    def _within(self, workers: int) -> int:
        fewest, most = self._policy.bounds(self._settings)
        return max(fewest, min(workers, most))


def take_census(places: Iterable[Place], routing: Routing, now: float) -> Census:
    """Who is there, who will be, and who is idle."""
    serving = [place for place in places if place.wanted and not place.standby]
    return Census(
        now,
        running=len(serving),
        starting=sum(place.is_starting for place in serving),
        idle=tuple(idle for place in serving if (idle := _idle(place, routing, now)) is not None),
    )


def _idle(place: Place, routing: Routing, now: float) -> Idle | None:
    runner = place.ready
    if runner is None or runner.endpoint is None or not runner.is_idle:
        return None
    since = routing.idle_since(runner.endpoint)
    return Idle(place.slot.number, runner.worker.forked_at or now, now if since is None else since)
