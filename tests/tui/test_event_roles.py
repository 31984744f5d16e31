"""How loud what happened is: what the proxy refuses or no longer uses is bad news, and what is well again is good."""

import pytest

from lab.core.events import Event, EventKind
from lab.tui.widgets.event_log import role


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (EventKind.ENDPOINT_HEALTH, {"to": "unhealthy"}, "bad"),
        (EventKind.ENDPOINT_HEALTH, {"to": "ejected"}, "bad"),
        (EventKind.ENDPOINT_HEALTH, {"to": "healthy"}, "good"),
        (EventKind.BREAKER, {"to": "open"}, "bad"),
        (EventKind.BREAKER, {"to": "half_open"}, "warn"),
        (EventKind.BREAKER, {"to": "closed"}, "good"),
        (EventKind.PANIC, {"on": True}, "bad"),
        (EventKind.PANIC, {"on": False}, "good"),
    ],
)
def test_21_what_the_proxy_thinks_otherwise_of_is_as_loud_as_it_matters(
    kind: EventKind, data: dict[str, object], expected: str
) -> None:
    assert role(Event(seq=1, at=0.0, wall=0.0, kind=kind, text="It changed.", data=data)) == expected
