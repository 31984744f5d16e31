"""Rules about routes: that each can be reached, leads somewhere, and asks for what a request can have.

See `rules`, which asks them together with all others.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from lab.core.model import RESERVED, AppSpec, RouteSpec
from lab.core.spelling import nearest, quoted

Finding = tuple[str, str]

_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[!-~\x80-\xff]([ \t!-~\x80-\xff]*[!-~\x80-\xff])?")
_OF_THE_CONNECTION: Final = re.compile(
    r"connection|keep-alive|proxy-connection|te|transfer-encoding|upgrade|proxy|forwarded|x[_-]forwarded[_-].*"
)


def reserved(path: str) -> str | None:
    """The page of the lab's own that a route's path would take requests from; None when there is none."""
    return next((page for page in RESERVED if f"{path.rstrip('/')}/".startswith(f"{page}/")), None)


def of_routes(routes: Sequence[RouteSpec], apps: Sequence[AppSpec]) -> Iterator[tuple[int, Finding]]:
    """Everything that is wrong with these routes, each with its place among them."""
    names = {app.name for app in apps}
    seen: dict[object, str] = {}
    for number, app in enumerate(apps):
        seen.setdefault(_conditions(RouteSpec(name=app.name, apps={app.name: 1}, path=app.route)), f"apps[{number}]")
    for place, route in enumerate(routes):
        yield from ((place, found) for found in _of_route(route, names))
        first = seen.setdefault(_conditions(route), f"routes[{place}]")
        if first != f"routes[{place}]":
            found = f"found {quoted(route.path)} with the conditions and the priority of {first}, expected others"
            yield place, ("path", f"{found}: only one of the two could ever be reached.")


def _of_route(route: RouteSpec, apps: set[str]) -> Iterator[Finding]:
    for app in route.apps:
        if app not in apps:
            yield "apps", f"found {quoted(app)}, expected an app of this lab. {nearest(app, apps)}"
    if not any(route.apps.values()):
        yield "apps", "found weight 0 everywhere, expected more for one at least: requests have to go somewhere."
    page = reserved(route.path)
    if page is not None:
        yield "path", f"found {quoted(route.path)}, expected another path: the lab shows pages of its own at {page}."
    if route.strip_prefix and route.rewrite:
        found = f"found strip_prefix beside {quoted(route.rewrite)}, expected one of the two"
        yield "rewrite", f"{found}: both replace the path, one by nothing."
    for name, value in route.headers.items():
        yield from _field(name, value)


def _field(name: str, value: str) -> Iterator[Finding]:
    if not _FIELD_NAME.fullmatch(name):
        yield "headers", f"found the name {quoted(name)}, expected that of a field, such as X-Canary."
    elif name.lower() == "host":
        yield "headers", f"found {quoted(name)}, expected the route's `host` instead: it has a condition of its own."
    elif _OF_THE_CONNECTION.fullmatch(name.lower()):
        found = f"found {quoted(name)}, expected a field that travels on"
        yield "headers", f"{found}: this one is of the connection alone, or anybody could have written it."
    if not _FIELD_VALUE.fullmatch(value):
        yield f"headers.{name}", f"found {quoted(value)}, expected text without line ends, or * for any value."


def _conditions(route: RouteSpec) -> object:
    """What decides whether a route takes a request: the same for two routes of which one is never reached."""
    fields = frozenset((name.lower(), value) for name, value in route.headers.items())
    path = route.path.rstrip("/")
    return route.priority, path, route.host.lower(), frozenset(route.methods), fields
