"""Plug-ins by entry point. Built-ins register the same way as a third party's, in pyproject.toml.

Groups: `cgilab.pool` (pool backends), `cgilab.proxy` (proxy backends), `cgilab.selection` (selection policies).
"""

import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lab.core.errors import UnavailableError


@cache
def _registered(group: str) -> tuple[EntryPoint, ...]:
    """Looked up once: it takes milliseconds, and what is installed while a lab runs belongs to the next one."""
    return tuple(entry_points(group=group))


def names(group: str) -> list[str]:
    """The names registered in `group`, sorted. Loads nothing."""
    return sorted({point.name for point in _registered(group)})


def load(group: str, name: str) -> Any:
    """What `name` registered in `group`. Raises `UnavailableError` when it is unknown or its import fails."""
    found = [point for point in _registered(group) if point.name == name]
    if not found:
        known = ", ".join(names(group)) or "none"
        raise UnavailableError(f"Found no {group} plug-in called {name!r}; expected one of: {known}.")
    try:
        return found[0].load()
    except Exception as error:
        raise UnavailableError(f"The {group} plug-in {name!r} ({found[0].value}) cannot be loaded: {error}.") from error


def load_all(group: str) -> dict[str, Any]:
    """Every plug-in of `group` that loads; one that does not is a warning."""
    loaded: dict[str, Any] = {}
    for name in names(group):
        try:
            loaded[name] = load(group, name)
        except UnavailableError as error:
            warnings.warn(str(error), stacklevel=2)
    return loaded
