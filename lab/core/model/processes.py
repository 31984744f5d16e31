"""Processes beside the pool, which apps may need."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from lab.core.model.forms import Name, Seconds, Some, Spec


class Restart(StrEnum):
    """Whether a process beside the pool is started again when it ends."""

    NEVER = "never"
    ON_FAILURE = "on_failure"
    """When it ended by a signal or an exit code other than 0."""
    ALWAYS = "always"


class HealthMethod(StrEnum):
    """How a process beside the pool is known to be well."""

    PROCESS = "process"
    """It runs."""
    TCP = "tcp"
    """A connection to `address` (host:port) is accepted."""
    HTTP = "http"
    """A GET of `url` answers 2xx."""
    COMMAND = "command"
    """`command` ends with exit code 0."""
    FILE = "file"
    """The file `path` exists."""


class ServiceHealth(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a process beside the pool is asked how it is."""

    method: HealthMethod = HealthMethod.PROCESS
    address: str = ""
    url: str = ""
    command: tuple[str, ...] = ()
    path: str = ""
    interval: Annotated[float, Meta(ge=0.01, le=3600)] = 0.5
    timeout: Annotated[float, Meta(ge=0.01, le=3600)] = 2.0
    start_timeout: Seconds = 30.0
    """It has to be healthy this long after its start, or it counts as failed."""
    fall: Some = 3
    """Failed checks in a row until it is unhealthy and, as `restart` says, started again."""


class ServiceSpec(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process beside the pool that apps, or other processes, need: `processes` in the manifest."""

    name: Name
    command: Annotated[tuple[str, ...], Meta(min_length=1)]
    env: dict[str, str] = msgspec.field(default_factory=dict)
    folder: str = ""
    """Its working directory. Absolute after the manifest was read; there it is relative to the manifest."""
    needs: tuple[Name, ...] = ()
    """Others that have to be healthy before it starts, and that outlive it."""
    health: ServiceHealth = ServiceHealth()
    restart: Restart = Restart.ON_FAILURE
    stop_signal: str = "SIGTERM"
    stop_timeout: Seconds = 5.0
