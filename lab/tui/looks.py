"""How states look: a sign, a colour role and a word for each, so that no state is told by colour alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from lab.core.model import Contract
from lab.core.snapshot import AppSnapshot, ServiceSnapshot, WorkerSnapshot
from lab.core.states import EndpointHealth, Policy, ServiceState, WorkerState
from lab.tui import figures
from lab.tui.glyphs import Glyphs


@dataclass(frozen=True, slots=True)
class Look:
    """`glyph` names a field of `Glyphs`, `role` a role of `painting.ROLES`."""

    glyph: str
    role: str
    word: str

    def sign(self, glyphs: Glyphs) -> str:
        """The one-cell sign in this set of glyphs."""
        found: str = getattr(glyphs, self.glyph)
        return found


_S = WorkerState

LOOKS = {
    _S.PENDING: Look("waiting", "dim", "pending"),
    _S.STARTING: Look("starting", "warn", "starting"),
    _S.READY: Look("ready", "good", "ready"),
    _S.UNHEALTHY: Look("unhealthy", "bad", "silent"),
    _S.DRAINING: Look("draining", "warn", "draining"),
    _S.STOPPING: Look("stopping", "warn", "stopping"),
    _S.KILLING: Look("dead", "bad", "killing"),
    _S.EXITED: Look("dead", "bad", "dead"),
    _S.BACKOFF: Look("waiting", "warn", "waits"),
    _S.FAILED: Look("failed", "bad", "failed"),
}

_P = ServiceState

SERVICE_LOOKS = {
    _P.WAITING: Look("waiting", "dim", "waiting"),
    _P.STARTING: Look("starting", "warn", "starting"),
    _P.HEALTHY: Look("ready", "good", "healthy"),
    _P.UNHEALTHY: Look("unhealthy", "bad", "unhealthy"),
    _P.BACKOFF: Look("waiting", "bad", "starts again soon"),
    _P.STOPPING: Look("stopping", "warn", "stopping"),
    _P.STOPPED: Look("dead", "warn", "stopped"),
}
"""Of processes beside the pool."""

FROZEN = Look("frozen", "cold", "frozen")
STANDBY = Look("standby", "accent", "standby")

HEALTH_LOOKS = {
    EndpointHealth.UNHEALTHY: Look("unhealthy", "bad", "fails its check"),
    EndpointHealth.EJECTED: Look("ejected", "bad", "ejected"),
}
"""Of workers that are READY to the pool, and not well to the proxy."""


def look(worker: WorkerSnapshot) -> Look:
    """The look of a worker. That the kernel holds it stopped is stronger than what the pool believes of it."""
    if worker.stopped and worker.pid is not None:
        return FROZEN
    if worker.state is not WorkerState.READY:
        return LOOKS[worker.state]
    return STANDBY if worker.standby else HEALTH_LOOKS.get(worker.health, LOOKS[worker.state])


def words(worker: WorkerSnapshot) -> str:
    """The state in words, with what the balancer believes of a frozen one, the countdown of a waiting one, and why."""
    said = look(worker).word
    if worker.stopped and worker.pid is not None:
        said += ", still routed" if worker.routed else ", out"
    if worker.retry_in_s is not None:
        waiting = worker.state is WorkerState.BACKOFF
        said += (
            f" {figures.seconds(worker.retry_in_s)}" if waiting else f", again in {figures.seconds(worker.retry_in_s)}"
        )
    elif worker.state is WorkerState.READY and worker.health in HEALTH_LOOKS:
        said += f" {figures.seconds(worker.ejected_for_s)}" if worker.ejected_for_s is not None else ""
        said += ", still routed" if worker.routed and not worker.stopped else ""
    why = worker.why or (worker.health_why if worker.state is WorkerState.READY else "")
    return f"{said}: {why}" if why else said


def absence(app: AppSnapshot, processes: Sequence[ServiceSnapshot]) -> Look:
    """What stands where workers of `app` would be when there are none: why that is so."""
    if app.unavailable is not None:
        return Look("failed", "bad", f"not available: {app.unavailable}")
    if app.waits_for:
        states = {process.name: f" ({SERVICE_LOOKS[process.state].word})" for process in processes}
        return Look("starting", "warn", f"waits for {', '.join(name + states.get(name, '') for name in app.waits_for)}")
    if app.building:
        return Look("starting", "warn", "building its program")
    if app.protocol == Contract.CGI:
        return Look("dot", "dim", "a process per request")
    if app.policy == Policy.ONDEMAND and app.max_workers:
        return Look("dot", "dim", "no workers until a request comes")
    return Look("dot", "dim", "no workers")
