"""Autoscaling: an app's `max_workers` follows its load.

The rules are those of Kubernetes' HorizontalPodAutoscaler (algorithm details) and of classic threshold alarms: one
metric, a mean over a few looks, a band in which nothing happens, a pause after each change. `Controller` is a pure
function of what it was shown; the engine looks once a second and does what it decides.

It promises never to leave the bounds of `ScalingSpec`, to change nothing within the band, and to say why it does what
it does. Places that are not filled count as zero, as Kubernetes has it before it grows: a pool that did not use what
it may have does not get more.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import ceil

from lab.core.clock import Clock
from lab.core.model import AppSpec, Metric, ScalingSpec
from lab.core.spelling import counted
from lab.core.tasks import background
from lab.pool.manager import AppView, PoolView
from lab.proxy.manager import ProxyView, UpstreamView

INTERVAL = 1.0
"""Seconds between two looks."""
LOOKS = 3
"""The metric is the mean of so many looks; after a change they begin anew."""
TOLERANCE = 0.1
"""Target tracking leaves a metric alone that is this near to its target (Kubernetes: 10 %)."""

_UNITS = {
    Metric.CPU: "{:.0f} % of a core a worker",
    Metric.MEMORY: "{:.0f} bytes a worker",
    Metric.IN_FLIGHT: "{:.2f} requests in flight a worker",
    Metric.RPS: "{:.1f} requests/s a worker",
    Metric.QUEUE: "{:.1f} requests waiting",
}
_SHARED_OUT = frozenset({Metric.CPU, Metric.IN_FLIGHT, Metric.RPS})
"""What the remaining workers take over from one that goes."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, and why, in words. `before` and `after` are the same when more is wanted than there may be."""

    metric: Metric
    value: float
    before: int
    after: int
    why: str


def measure(metric: Metric, pool: AppView, upstream: UpstreamView, workers: int) -> float:
    """The metric now: a sum over the workers there are, shared among the `workers` that there may be."""
    match metric:
        case Metric.QUEUE:
            return float(upstream.queue)
        case Metric.CPU:
            total = sum(worker.cpu_percent or 0.0 for worker in pool.workers)
        case Metric.MEMORY:
            total = sum(worker.rss_bytes or 0 for worker in pool.workers)
        case Metric.IN_FLIGHT:
            total = sum(endpoint.in_flight for endpoint in upstream.endpoints)
        case Metric.RPS:
            total = upstream.rps
    return total / max(1, workers)


class Controller:
    """Decides for one app."""

    def __init__(self, spec: ScalingSpec) -> None:
        self.spec = spec
        self._looks: deque[float] = deque(maxlen=LOOKS)
        self._workers: int | None = None
        """How many there were at the last look: who sees another number knows that somebody changed it."""
        self._changed_at: float | None = None
        self._at_maximum = False
        """It is known that more are wanted than there may be."""

    def look(self, now: float, workers: int, value: float) -> Decision | None:
        """Take in the metric at monotonic time `now`, while the app may have so many `workers`; what to change."""
        if self._workers not in (None, workers):
            self._change(now, workers)
        self._workers = workers
        self._looks.append(value)
        bounded = self._bounded(workers)
        if bounded != workers:
            between = f"{self._least} to {self.spec.max_workers}"
            found = f"{counted(workers, 'worker')} {'is' if workers == 1 else 'are'}"
            outside = f"{found} outside the bounds of its scaling, {between}"
            return self._decide(now, value, bounded, outside)
        if len(self._looks) < LOOKS:
            return None
        mean = sum(self._looks) / LOOKS
        wanted, reason = self._by_target(mean, workers) if self.spec.target else self._by_thresholds(mean, workers)
        return self._follow(now, mean, wanted, f"{_UNITS[self.spec.metric].format(mean)}, {reason}")

    def _follow(self, now: float, mean: float, wanted: int, why: str) -> Decision | None:
        """Go where the metric points, as far as bounds and pauses allow."""
        workers = self._workers or 0
        after = self._bounded(wanted)
        if after != workers:
            return self._decide(now, mean, after, why) if self._is_rested(now, growing=after > workers) else None
        told, self._at_maximum = self._at_maximum, wanted > workers
        if self._at_maximum and not told:
            return Decision(self.spec.metric, mean, workers, workers, f"{why}, but {workers} is the maximum")
        return None

    def _by_target(self, mean: float, workers: int) -> tuple[int, str]:
        """`ceil(workers * value / target)`, unless the two are near enough to each other."""
        target = self.spec.target
        near = abs(mean - target) <= TOLERANCE * target
        # Rounded: a mean of equal looks may be a hair above them, and a hair is not worth a worker.
        return workers if near else ceil(round(max(1, workers) * mean / target, 6)), f"the target is {target:g}"

    def _by_thresholds(self, mean: float, workers: int) -> tuple[int, str]:
        """A step up above `high`, a step down below `low`, unless those that stay would be above `high` again."""
        if mean > self.spec.high:
            return workers + self.spec.step, f"above {self.spec.high:g}"
        fewer = self._bounded(workers - self.spec.step)
        share = workers / max(1, fewer) if self.spec.metric in _SHARED_OUT else 1.0
        if mean < self.spec.low and mean * share <= self.spec.high:
            return fewer, f"below {self.spec.low:g}"
        return workers, ""

    @property
    def _least(self) -> int:
        """Without a worker nothing but the queue can be seen, so nothing else could bring one back."""
        return self.spec.min_workers if self.spec.metric is Metric.QUEUE else max(1, self.spec.min_workers)

    def _bounded(self, workers: int) -> int:
        return min(max(workers, self._least), self.spec.max_workers)

    def _is_rested(self, now: float, *, growing: bool) -> bool:
        pause = self.spec.up_cooldown if growing else self.spec.down_cooldown
        return self._changed_at is None or now - self._changed_at >= pause

    def _decide(self, now: float, value: float, after: int, why: str) -> Decision:
        before = self._workers or 0
        self._change(now, after)
        return Decision(self.spec.metric, value, before, after, why)

    def _change(self, now: float, workers: int) -> None:
        """There are so many from now on: looks at another number count no more."""
        self._workers = workers
        self._changed_at = now
        self._looks.clear()


class Scaling:
    """Shows each app's controller its metric once a second, while any app asks for scaling."""

    def __init__(
        self,
        clock: Clock,
        views: Callable[[], tuple[PoolView, ProxyView]],
        obey: Callable[[str, Decision], Awaitable[None]],
    ) -> None:
        """`obey` is awaited with an app's name and what was decided."""
        self._clock = clock
        self._views = views
        self._obey = obey
        self._controllers: dict[str, Controller] = {}
        self._workers: dict[str, int] = {}
        self._looking: asyncio.Task[None] | None = None

    def follow(self, apps: tuple[AppSpec, ...]) -> None:
        """Scale the apps that ask for it, from now on. An app whose rules stay keeps what was seen of it."""
        self._workers = {app.name: app.pool.max_workers for app in apps}
        self._controllers = {app.name: self._controller(app.name, app.scaling) for app in apps if app.scaling}
        if self._controllers and self._looking is None:
            self._looking = background(self._look())

    def _controller(self, app: str, spec: ScalingSpec) -> Controller:
        known = self._controllers.get(app)
        return known if known is not None and known.spec == spec else Controller(spec)

    def close(self) -> None:
        """Look no more."""
        self._controllers = {}
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        while self._controllers:
            await asyncio.sleep(INTERVAL)
            pools, traffic = self._views()
            upstreams = {upstream.app: upstream for upstream in traffic.upstreams}
            for pool in pools.apps:
                controller, upstream = self._controllers.get(pool.name), upstreams.get(pool.name)
                if controller is None or upstream is None or pool.unavailable is not None:
                    continue
                workers = self._workers[pool.name]
                value = measure(controller.spec.metric, pool, upstream, workers)
                decision = controller.look(self._clock.monotonic(), workers, value)
                if decision is not None:
                    await self._obey(pool.name, decision)
        self._looking = None
