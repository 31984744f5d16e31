"""Point 17: routes that could never be reached, lead nowhere, or ask for what no request has are refused."""

from typing import Any

import msgspec
import pytest

from lab.config.languages import Language
from lab.core import rules
from lab.core.model import AppSpec, Contract, RouteSpec, ServiceSpec


def app(name: str) -> AppSpec:
    return AppSpec(name=name, route=f"/{name}", language="python", source="/a.py")


def route(**keys: Any) -> RouteSpec:
    return msgspec.convert({"name": "r", "path": "/r", "apps": {"a": 1}} | keys, RouteSpec)


START = {Contract.HTTP_PORT: ()}
PYTHON = Language(name="python", title="Python", tools=(), version=(), build=None, start=START, hint="", files=(".py",))


def told(*routes: RouteSpec) -> list[tuple[str, str, str]]:
    process = ServiceSpec(name="redis", command=("redis-server",))
    found = rules.of_lab([app("a"), app("b")], [process], {"python": PYTHON}, ["round_robin"], routes)
    return [(one.place, one.key, one.message) for one in found]


RIGHT = {
    "a path of its own": [{}],
    "the path of an app, with a condition": [{"path": "/a", "methods": ["PUT"]}],
    "the path of an app, before it": [{"path": "/a", "priority": 1}],
    "two weights, one of them 0": [{"apps": {"a": 0, "b": 1}}],
    "one path, other hosts": [{"host": "x"}, {"name": "s", "host": "*.x"}],
    "one path, other values": [{"headers": {"k": "1"}}, {"name": "s", "headers": {"k": "2"}}],
    "everything": [{"path": "/"}],
    "beside a page of the lab": [{"path": "/pool-status-of-mine"}],
    "any value": [{"headers": {"Authorization": "*"}}],
}


@pytest.mark.parametrize("routes", RIGHT.values(), ids=RIGHT)
def test_17_routes_that_can_be_reached_are_let_pass(routes: list[dict[str, Any]]) -> None:
    assert told(*(route(**keys) for keys in routes)) == []


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown app": ({"apps": {"c": 1, "a": 1}}, "apps", 'found "c", expected an app of this lab. Known: a, b.'),
    "a process": ({"apps": {"redis": 1}}, "apps", 'found "redis", expected an app'),
    "no weight": ({"apps": {"a": 0, "b": 0}}, "apps", "found weight 0 everywhere, expected more"),
    "the lab's page": ({"path": "/pool-status/x"}, "path", 'found "/pool-status/x", expected another path: the lab'),
    "the lab's pages": ({"path": "/-/"}, "path", 'found "/-/", expected another path'),
    "strip and rewrite": ({"strip_prefix": True, "rewrite": "/x"}, "rewrite", 'found strip_prefix beside "/x"'),
    "no name of a field": ({"headers": {"a b": "1"}}, "headers", 'found the name "a b", expected that of a field'),
    "host as a field": ({"headers": {"Host": "x"}}, "headers", "expected the route's `host` instead"),
    "a field of the connection": ({"headers": {"Connection": "*"}}, "headers", "expected a field that travels on"),
    "what anybody could write": ({"headers": {"X-Forwarded-For": "*"}}, "headers", "anybody could have written it"),
    "two lines": ({"headers": {"k": "1\r\nX: 2"}}, "headers.k", "expected text without line ends"),
    "no value": ({"headers": {"k": ""}}, "headers.k", 'found "", expected text'),
    "spaces around a value": ({"headers": {"k": " 1"}}, "headers.k", 'found " 1", expected text'),
    "the name of an app": ({"name": "a"}, "name", 'found "a", expected another one: apps[0] has it already.'),
    "the name of a process": ({"name": "redis"}, "name", "processes[0] has it already."),
    "what an app takes already": (
        {"path": "/b/"},
        "path",
        'found "/b/" with the conditions and the priority of apps[1]',
    ),
}


@pytest.mark.parametrize(("keys", "key", "message"), WRONG.values(), ids=WRONG)
def test_17_a_wrong_route_is_named_with_its_key_and_why(keys: dict[str, Any], key: str, message: str) -> None:
    ((place, found, why),) = told(route(**keys))
    assert (place, found) == ("routes[0]", key)
    assert message in why


@pytest.mark.parametrize(
    "other",
    [
        {"path": "/r/"},
        {"host": "X.org"},
        {"methods": ["PUT", "GET"]},
        {"headers": {"K": "1", "l": "2"}},
    ],
)
def test_17_of_two_routes_that_ask_for_the_same_one_is_never_reached(other: dict[str, Any]) -> None:
    same = {"host": "x.org", "methods": ["GET", "PUT"], "headers": {"L": "2", "k": "1"}}
    first = {key: same[key] for key in other if key in same}
    ((place, key, why),) = told(route(**first), route(name="s", **other))
    assert (place, key) == ("routes[1]", "path")
    assert "the conditions and the priority of routes[0], expected others: only one of the two" in why
    assert told(route(**first), route(name="s", priority=1, **other)) == []
