"""How a route's requests are shared out among its apps, changed while the lab runs: what `cgilab shift` means."""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from lab.core.errors import NotPossibleError
from lab.core.model import RouteSpec
from lab.core.spelling import nearest, quoted

_MOST: Final = 1_000_000
"""The greatest weight, as the model has it."""


def shifted(route: RouteSpec, weights: Mapping[str, int]) -> RouteSpec:
    """The route with these weights. Raises `NotPossibleError` for an app that it does not lead to."""
    for app, weight in weights.items():
        if app not in route.apps:
            raise NotPossibleError(f"{route.name} does not lead to {quoted(app)}.", nearest(app, route.apps))
        if not 0 <= weight <= _MOST:
            raise NotPossibleError(f"{app}: found the weight {weight}, expected 0 to {_MOST}.")
    return replace(route, apps={**route.apps, **weights})


def told(weights: Mapping[str, int]) -> str:
    """`search 90, search-next 10`."""
    return ", ".join(f"{app} {weight}" for app, weight in weights.items())
