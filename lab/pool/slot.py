"""A slot's memory: how its workers died, and so what follows the next death. Pure; the supervisor acts on it.

Back-off counts deaths in a row before READY or within `stable_after` of it; the restart after any other death is
immediate. Kills ordered through the lab never count. Too many failed starts within the intensity window make the slot
FAILED; from there each try is a single half-open one, until one gets READY. (Intensity as in an OTP supervisor, back-
off as in systemd.)
"""

import random
from collections import deque
from dataclasses import dataclass

from lab.core.backoff import Backoff
from lab.core.model import PoolSettings
from lab.core.states import Cause, WorkerState
from lab.pool.worker import By, Death

_PORTS_TRIED = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a slot does after a death: PENDING at once, or BACKOFF or FAILED for `delay` seconds, and `why`."""

    state: WorkerState
    delay: float = 0.0
    why: str = ""


class Slot:
    """A place in the pool. It outlives the processes that fill it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.generation = 0
        self.outage: tuple[Death, int] | None = None
        """The death that took the slot out of service, and how many requests it lost, until a successor is READY."""
        self._deaths = 0
        self._first_at = 0.0
        self._failed_starts: deque[float] = deque()
        self._half_open = False
        self._ports_taken = 0

    def next_generation(self) -> int:
        """Count one more process."""
        self.generation += 1
        return self.generation

    def recovered(self) -> tuple[Death, int] | None:
        """A worker is READY; returns the outage that it ends, if there was one."""
        outage, self.outage = self.outage, None
        self._half_open = False
        self._ports_taken = 0
        self._failed_starts.clear()
        return outage

    def relieved(self) -> tuple[Death, int] | None:
        """Another slot serves in its place; returns the outage that this ends. How its own starts fare stays known."""
        outage, self.outage = self.outage, None
        return outage

    def forgive(self) -> None:
        """A person says: try again as if nothing had happened."""
        self._deaths = 0
        self._half_open = False
        self._failed_starts.clear()

    def lost_port(self) -> bool:
        """A start failed because another process has its port; whether to try another port, which is no crash."""
        self._ports_taken += 1
        return self._ports_taken <= _PORTS_TRIED

    def interrupted(self, death: Death, lost: int) -> None:
        """A worker died that nobody had asked to stop: if it had been READY, the slot is out of service from now on."""
        if death.ready_at is not None and self.outage is None:
            self.outage = (death, lost)

    def died(self, death: Death, lost: int, settings: PoolSettings, rng: random.Random) -> Verdict:
        """What follows a death that nobody asked this pool for."""
        self.interrupted(death, lost)
        stable = death.ready_at is not None and death.at - death.ready_at >= settings.stable_after
        if stable:
            self._deaths = 0
        if stable or death.by is By.PERSON:
            return Verdict(WorkerState.PENDING)
        self._first_at = death.at if self._deaths == 0 else self._first_at
        self._deaths += 1
        return self._delayed(death, settings, rng)

    def _delayed(self, death: Death, settings: PoolSettings, rng: random.Random) -> Verdict:
        delay = Backoff(settings.backoff_initial, settings.backoff_max).delay(self._deaths, rng)
        if death.ready_at is None:
            self._failed_starts.append(death.at)
        while self._failed_starts and self._failed_starts[0] < death.at - settings.intensity_window:
            self._failed_starts.popleft()
        if self._half_open or len(self._failed_starts) >= settings.intensity_failures:
            self._half_open = True
            return Verdict(WorkerState.FAILED, delay, f"{self._deaths} failed starts in a row")
        if death.cause is Cause.PORT_TAKEN:
            advice = "keep other programs off the ports that the kernel gives (net.ipv4.ip_local_port_range)"
            return Verdict(WorkerState.BACKOFF, delay, f"{self._ports_taken} ports in a row were taken: {advice}")
        deaths = (
            "1 early death" if self._deaths == 1 else f"{self._deaths} deaths in {_span(death.at - self._first_at)}"
        )
        return Verdict(WorkerState.BACKOFF, delay, deaths)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
