"""Point 17: which route takes a request, how it is rewritten, and whose turn it is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.model import Limits, RouteSpec
from lab.proxy.routes import Routes, conditions, described, replaced
from lab.proxy.turns import next_turn
from lab.wire.http1 import RequestHead, parse_request


def route(name: str, path: str = "/", **more: Any) -> tuple[RouteSpec, str]:
    return RouteSpec(name=name, apps={"a": 1}, path=path, **more), name


def request(target: str = "/", host: str = "x", method: str = "GET", fields: str = "") -> RequestHead:
    head = parse_request(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode(), Limits())
    assert head is not None
    return head


PATHS = [route("api", "/api"), route("search", "/api/search"), route("files", "/files/")]
NEVER = route("never", "/never", methods=("GET",))


@pytest.mark.parametrize("more", [[], [NEVER]], ids=["paths only", "with conditions"])
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/api/search", "search"),
        ("/api/search?q=/api", "search"),
        ("/api/search/", "search"),
        ("/api/search/deep", "search"),
        ("/api/searching", "api"),
        ("/api", "api"),
        ("/apix", None),
        ("/files/", "files"),
        ("/files/a", "files"),
        ("/files", None),
        ("/", None),
        ("/status/more", "page"),
    ],
)
def test_17_the_longest_prefix_that_ends_at_a_slash_wins(
    more: list[tuple[RouteSpec, str]], target: str, expected: str | None
) -> None:
    assert Routes([*PATHS, *more], [("/status", "page")]).match(request(target)) == expected


@pytest.mark.parametrize("more", [[], [NEVER]], ids=["paths only", "with conditions"])
def test_17_a_route_at_the_root_takes_what_no_other_takes_but_no_asterisk(more: list[tuple[RouteSpec, str]]) -> None:
    routes = Routes([route("root"), route("api", "/api"), *more])
    assert [routes.match(request(target)) for target in ("/", "/x", "/api/x", "/?q")] == ["root", "root", "api", "root"]
    assert routes.match(request("*", method="OPTIONS")) is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("www.example.org", "exact"),
        ("WWW.Example.ORG:8080", "exact"),
        ("www.example.org.", "exact"),
        ("a.example.org", "wild"),
        ("a.b.example.org:1", "wild"),
        ("example.org", "any"),
        ("badexample.org", "any"),
        ("www.example.org.evil", "any"),
        ("[::1]:80", "six"),
        ("[::1]", "six"),
    ],
)
def test_17_a_host_is_exact_or_everything_below_a_name_whatever_case_and_port(host: str, expected: str) -> None:
    rows = [route("wild", host="*.example.org"), route("exact", host="www.example.org")]
    assert Routes([*rows, route("six", host="[::1]"), route("any")]).match(request(host=host)) == expected


def test_17_an_old_client_that_names_no_host_fits_no_host() -> None:
    head = parse_request(b"GET / HTTP/1.0\r\n\r\n", Limits())
    assert head is not None
    assert Routes([route("wild", host="*.org"), route("exact", host="x")]).match(head) is None


def test_17_methods_are_exactly_those_that_are_named() -> None:
    routes = Routes([route("reads", methods=("GET", "HEAD")), route("writes", methods=("POST",))])
    found = [routes.match(request(method=method)) for method in ("GET", "HEAD", "POST", "DELETE")]
    assert found == ["reads", "reads", "writes", None]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("X-Canary: yes\r\n", "canary"),
        ("x-CANARY:yes \t\r\n", "canary"),
        ("X-Canary: no\r\nX-Canary: yes\r\n", "canary"),
        ("X-Canary: yes, please\r\n", None),
        ("X-Canary: YES\r\n", None),
        ("X-Canaryy: yes\r\n", None),
        ("Y: X-Canary: yes\r\n", None),
        ("Authorization: whatever\r\n", "known"),
        ("Authorization:\r\n", "known"),
        ("", None),
    ],
)
def test_17_a_field_has_the_value_or_with_an_asterisk_any(fields: str, expected: str | None) -> None:
    routes = Routes([route("canary", headers={"x-canary": "yes"}), route("known", headers={"Authorization": "*"})])
    assert routes.match(request(fields=fields)) == expected


def test_17_all_fields_that_a_route_asks_for_have_to_be_there() -> None:
    routes = Routes([route("both", headers={"k": "v", "l": "*"})])
    assert routes.match(request(fields="K: v\r\nL: x\r\n")) == "both"
    assert routes.match(request(fields="K: v\r\n")) is None
    assert routes.match(request(fields="K: w\r\nL: x\r\n")) is None


def test_17_the_value_of_a_field_is_text_and_no_expression() -> None:
    routes = Routes([route("a", headers={"v": "1.*"})])
    assert routes.match(request(fields="V: 1.2\r\n")) is None
    assert routes.match(request(fields="V: 1.*\r\n")) == "a"


def test_17_every_condition_has_to_fit() -> None:
    routes = Routes([route("all", "/a", host="x", methods=("GET",), headers={"k": "v"})])
    assert routes.match(request("/a", fields="K: v\r\n")) == "all"
    for wrong in (
        request("/b", fields="K: v\r\n"),
        request("/a", "y", fields="K: v\r\n"),
        request("/a", method="PUT", fields="K: v\r\n"),
        request("/a"),
    ):
        assert routes.match(wrong) is None


LADDER = [
    route("first", "/", priority=1),
    route("long path", "/a/b"),
    route("two conditions", "/a", host="x", methods=("GET",)),
    route("exact host", "/a", host="x"),
    route("wildcard", "/a", host="*.x"),
    route("path", "/a"),
    route("last", "/a", priority=-1),
]


@pytest.mark.parametrize("place", range(len(LADDER)))
def test_17_priority_then_path_then_conditions_then_the_exact_host_decide(place: int) -> None:
    asked = request("/a/b", host="a.x" if LADDER[place][1] == "wildcard" else "x")
    left = LADDER[place:]
    for order in (left, left[::-1]):
        assert Routes(order).match(asked) == LADDER[place][1]


def takes(spec: RouteSpec, path: str, host: str, method: str) -> bool:
    """The rule in its plainest words."""
    below = spec.path if spec.path.endswith("/") else f"{spec.path}/"
    fits = not spec.host or host == spec.host or (spec.host.startswith("*.") and host.endswith(spec.host[1:]))
    return (path == spec.path or path.startswith(below)) and fits and (not spec.methods or method in spec.methods)


SOME_PATHS = st.sampled_from(["/", "/a", "/a/", "/a/b", "/ab", "/b"])
SOME_HOSTS = st.sampled_from(["x.org", "a.x.org", "y"])
SOME_METHODS = st.sampled_from(["GET", "PUT"])
SOME_ROUTES = st.builds(
    RouteSpec,
    name=st.just("r"),
    apps=st.just({"a": 1}),
    path=SOME_PATHS,
    host=st.sampled_from(["", "", "x.org", "*.x.org"]),
    methods=st.sampled_from([(), (), ("GET",), ("GET", "PUT")]),
    priority=st.sampled_from([0, 0, 1]),
)


@given(st.lists(SOME_ROUTES, max_size=6, unique_by=described), SOME_PATHS, SOME_HOSTS, SOME_METHODS)
def test_17_the_table_finds_what_the_rule_says(specs: list[RouteSpec], path: str, host: str, method: str) -> None:
    fitting = [spec for spec in specs if takes(spec, path, host, method)]
    fitting.sort(key=lambda spec: (-spec.priority, -len(spec.path), -conditions(spec), spec.host.startswith("*")))
    found = Routes([(spec, spec) for spec in specs]).match(request(path, host, method))
    assert found == (fitting[0] if fitting else None)


def test_17_no_priority_takes_a_reserved_path() -> None:
    routes = Routes([route("greedy", priority=1000, methods=("GET",))], [("/pool-status", "page")])
    found = [routes.match(request(target)) for target in ("/pool-status", "/pool-status/x?y", "/pool-statusx")]
    assert found == ["page", "page", "greedy"]


def test_17_a_path_that_is_known_is_told_from_one_that_is_not() -> None:
    routes = Routes([route("a", "/a", methods=("PUT",))])
    assert [routes.match(request("/a/x")), routes.knows(b"/a/x?q"), routes.knows(b"/b")] == [None, True, False]


@pytest.mark.parametrize(
    ("target", "prefix", "by", "expected"),
    [
        (b"/api/x?q=/api", b"/api", b"", b"/x?q=/api"),
        (b"/api", b"/api", b"", b"/"),
        (b"/api/", b"/api", b"", b"/"),
        (b"/api?q", b"/api", b"", b"/?q"),
        (b"/api/x", b"/api/", b"", b"/x"),
        (b"/api/x", b"/api", b"/v2", b"/v2/x"),
        (b"/api/x", b"/api", b"/v2/", b"/v2/x"),
        (b"/api", b"/api", b"/v2", b"/v2"),
        (b"/x", b"/", b"/v2", b"/v2/x"),
        (b"/", b"/", b"/v2", b"/v2/"),
        (b"/api//x", b"/api", b"", b"//x"),
        (b"/x", b"/", b"", b"/x"),
    ],
)
def test_17_a_prefix_is_replaced_and_a_path_stays_a_path(
    target: bytes, prefix: bytes, by: bytes, expected: bytes
) -> None:
    assert replaced(target, prefix, by) == expected


def test_a_route_is_described_in_one_line() -> None:
    spec, _ = route("a", "/api", host="*.x", methods=("GET", "PUT"), headers={"k": "v", "l": "*"}, priority=2)
    assert described(spec) == "GET,PUT *.x/api with k: v, l, priority 2"
    assert described(route("b", "/b")[0]) == "/b"


@dataclass
class Turn:
    weight: int
    credit: int = 0


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 3))
def test_17_after_as_many_requests_as_the_weights_sum_up_to_each_share_is_exact(
    weights: Sequence[int], rounds: int
) -> None:
    turns = [Turn(weight) for weight in weights]
    total = sum(weights)
    chosen = [next_turn(turns) for _ in range(total * rounds)]
    counted = Counter(id(turn) for turn in chosen)
    assert [counted[id(turn)] for turn in turns] == [weight * rounds for weight in weights]
    assert all(turn.credit == 0 for turn in turns)
    assert (next_turn(turns) is None) == (total == 0)


def test_17_turns_are_spread_as_nginx_spreads_them() -> None:
    a, b, c = turns = [Turn(5), Turn(1), Turn(1)]
    assert [next_turn(turns) for _ in range(7)] == [a, a, b, a, c, a, a]
