"""The pages that the gateway shows to those who run it, all below `/-/`; and `/pool-status`, as PHP-FPM has it.

`/-/healthz` answers as long as the engine does. `/-/readyz` is for a balancer in front of this lab: 200 when every app
has an endpoint, else 503 with the names of those that have none.
"""

from collections.abc import Callable, Container, Mapping

from lab.core.model import OPERATORS
from lab.proxy.manager import Page

_TEXT = "text/plain; charset=utf-8"
_PAGES = {
    "/metrics": "everything that was counted, in the OpenMetrics format",
    "/pool-status": "every pool, as PHP-FPM shows it; ?full, ?json, ?openmetrics, ?app=NAME",
    "/healthz": "200 while the lab answers",
    "/readyz": "200 when every app has an endpoint, else 503 and which have none",
}


class Pages:
    """Finds a page by its path."""

    def __init__(
        self, readiness: Callable[[], Page], status: Callable[[str], Page], metrics: Callable[[], Callable[[], Page]]
    ) -> None:
        """`metrics` looks, and gives a function that writes down what it saw, in whatever thread."""
        self._readiness = readiness
        self._status = status
        self._metrics = metrics

    def __call__(self, path: str, query: str) -> Page | Callable[[], Page] | None:
        """The page, a function that writes it, or None where there is none."""
        match path.removeprefix(OPERATORS).rstrip("/"):
            case "/pool-status":
                return self._status(query)
            case _ if not path.startswith(OPERATORS):
                return None
            case "/metrics":
                return self._metrics()
            case "/healthz":
                return Page(_TEXT, b"ok\n")
            case "/readyz":
                return self._readiness()
            case "":
                return Page(_TEXT, _index())
            case _:
                return None


def readiness(endpoints: Mapping[str, int], on_demand: Container[str]) -> Page:
    """Whether every app can answer. `endpoints` has how many of each may be chosen.

    An app whose workers start on demand, and that could start one, needs none.
    """
    lines = []
    for app, count in endpoints.items():
        waiting = "ready: its workers start on demand" if app in on_demand else "NOT READY: it has no endpoint"
        lines.append(f"{app}: {f'ready, with {count} of its endpoints' if count else waiting}\n")
    ready = all(count or app in on_demand for app, count in endpoints.items())
    return Page(_TEXT, "".join(lines).encode(), 200 if ready else 503)


def _index() -> bytes:
    width = max(map(len, _PAGES)) + len(OPERATORS) + 2
    return "".join(f"{OPERATORS + path:<{width}}{about}\n" for path, about in _PAGES.items()).encode()
