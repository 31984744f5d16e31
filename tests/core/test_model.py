"""Values that come from outside are checked where they enter: by their types."""

from typing import Any

import msgspec
import pytest

from lab.core.model import AppSpec, Endpoint, ListenerSpec, WorkerId

APP: dict[str, Any] = {"name": "search", "route": "/api/search", "language": "c", "source": "search.c"}

REFUSED: dict[str, dict[str, Any]] = {
    "upper case": {"name": "Search"},
    "leading digit": {"name": "1a"},
    "long name": {"name": "a" * 33},
    "line feed after a name": {"name": "search\n"},
    "route without slash": {"route": "api"},
    "space in a route": {"route": "/a b"},
    "query in a route": {"route": "/a?b"},
    "fragment in a route": {"route": "/a#b"},
    "line feed after a route": {"route": "/a\n"},
    "second line in a health path": {"health": "/health HTTP/1.1\r\nX: y"},
    "no place for a request": {"concurrency": 0},
    "a million workers": {"pool": {"max_workers": 1_000_000}},
    "a wait for ever": {"timeouts": {"queue": 1e18}},
    "unknown contract": {"protocol": "gopher"},
    "unknown key": {"colour": "red"},
}


@pytest.mark.parametrize("keys", REFUSED.values(), ids=REFUSED)
def test_an_app_that_makes_no_sense_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(APP | keys, AppSpec)


@pytest.mark.parametrize(
    "keys", [{}, {"route": "/"}, {"route": "/a-b_c.d~e/%20"}, {"health": "/health?deep=1"}, {"name": "a"}]
)
def test_an_app_that_makes_sense_is_taken(keys: dict[str, Any]) -> None:
    assert msgspec.convert(APP | keys, AppSpec).language == "c"


def test_an_app_survives_the_way_through_json() -> None:
    app = msgspec.convert(APP | {"env": {"A": "b"}, "pool": {"max_workers": 7}}, AppSpec)
    assert msgspec.json.decode(msgspec.json.encode(app), type=AppSpec) == app


@pytest.mark.parametrize("keys", [{"port": 65536}, {"port": -1}, {"host": ""}, {"host": "127.0.0.1 "}])
def test_a_listener_with_no_such_port_or_with_no_host_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(keys, ListenerSpec)


def test_workers_and_endpoints_are_named_as_people_name_them() -> None:
    worker = WorkerId("search", 2, 5)
    assert str(worker) == "search/2"
    assert str(Endpoint("search", worker, "127.0.0.1", 40021)) == "127.0.0.1:40021"
