"""Which upstream a request belongs to: the longest path prefix wins, and prefixes end at a slash."""

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Routes(Generic[T]):
    """An immutable table of path prefixes. `/api/search` takes `/api/search` and everything below `/api/search/`."""

    def __init__(self, routes: Iterable[tuple[str, T]]) -> None:
        table = sorted(((prefix.encode(), target) for prefix, target in routes), key=lambda row: -len(row[0]))
        self.prefixes = tuple(sorted(prefix.decode() for prefix, _ in table))
        self._exact = dict(table)
        self._below = tuple((prefix.rstrip(b"/") + b"/", target) for prefix, target in table)

    def match(self, target: bytes) -> T | None:
        """The route of a request target in origin-form, or None."""
        path = target.partition(b"?")[0]
        found = self._exact.get(path)
        if found is not None:
            return found
        for prefix, route in self._below:
            if path.startswith(prefix):
                return route
        return None
