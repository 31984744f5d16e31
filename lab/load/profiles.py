"""What a load run sends: how many users, how often, along which curve, for how long.

A profile is checked when it is made, so a wrong one never starts a process.
"""

from enum import StrEnum

import msgspec

from lab.core.errors import NotPossibleError

MAX_USERS = 2_000
MAX_RATE = 10_000.0
MAX_SECONDS = 3_600.0
MAX_WORKERS = 32
RATE_PER_USER = 10.0
"""Requests/s that each user sends unless told otherwise: enough to see, little enough to measure the lab and not
the generator."""


class Shape(StrEnum):
    """How the number of users changes over a run."""

    CONSTANT = "constant"
    """All users from beginning to end."""
    RAMP = "ramp"
    """From one user to all of them over four fifths of the run, then all."""
    SPIKE = "spike"
    """A tenth of the users, all of them in the middle third, a tenth again."""
    STEPS = "steps"
    """A quarter, a half, three quarters, all."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One load run, as asked for. Raises `NotPossibleError` when a value is out of its bounds."""

    target: str
    """The name of an app, a path such as `/api/search?q=test`, or a URL of the lab's own listener."""
    users: int = 10
    """The most users at a time. Each waits for an answer before it asks again."""
    rate: float | None = None
    """Requests/s of all users together when all are there; None means 10 for each."""
    workers: int = 1
    """Generator processes that share the users. One is enough for about 1,000 requests/s."""
    seconds: float = 10.0
    """How long. The generator looks at its clock once a second."""
    shape: Shape = Shape.CONSTANT

    def __post_init__(self) -> None:
        _within("users", self.users, 1, MAX_USERS)
        _within("workers", self.workers, 1, MAX_WORKERS)
        _within("seconds", self.seconds, 1, MAX_SECONDS)
        if self.rate is not None:
            _within("rate", self.rate, 0.1, MAX_RATE)

    @property
    def user_rate(self) -> float:
        """Requests/s of one user: the mean of a Poisson process, so that users do not march in step."""
        return RATE_PER_USER if self.rate is None else self.rate / self.users

    @property
    def peak_rate(self) -> float:
        """Requests/s when all users are there and nobody waits for a slow answer."""
        return self.user_rate * self.users

    def users_at(self, elapsed: float) -> int | None:
        """How many users there should be `elapsed` s after the start; None when the run is over."""
        if elapsed >= self.seconds:
            return None
        return max(1, round(self.users * _share(self.shape, elapsed / self.seconds)))


def _share(shape: Shape, progress: float) -> float:
    """The share of all users at `progress` (0 to 1) of the run."""
    match shape:
        case Shape.CONSTANT:
            return 1.0
        case Shape.RAMP:
            return min(1.0, progress / 0.8)
        case Shape.SPIKE:
            return 1.0 if 1 / 3 <= progress < 2 / 3 else 0.1
        case Shape.STEPS:
            return (int(progress * 4) + 1) / 4


def _within(name: str, found: float, least: float, most: float) -> None:
    if not least <= found <= most:
        raise NotPossibleError(f"Found {name} = {found:g}; expected {least:g} to {most:g}.")
