"""Figures as a page in the OpenMetrics text format, which Prometheus and its like read.

prometheus_client writes it. That takes 40 ms to import, and few ask for such a page: so it is imported here, when one
is asked for.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Families(Protocol):
    """Everything that a page shows, as prometheus_client calls for it."""

    def collect(self) -> "Iterable[Metric]":
        """One metric family after another."""
        ...


def page(families: Families) -> bytes:
    """The page, to be sent as `CONTENT_TYPE`."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(families)
    written: bytes = generate_latest(registry)
    return written
