"""Settings that do not go together are refused with what was found, what was expected, and why."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from lab.config.languages import Language
from lab.core import rules
from lab.core.model import AppSpec, ClientTimeouts, Contract, ListenerSpec, ProxySettings, ServiceSpec


def language(*contracts: Contract) -> Language:
    start = dict.fromkeys(contracts, ())
    files = (".py", ".pyw")
    return Language(name="a", title="A", tools=(), version=(), build=None, start=start, hint="", files=files)


LANGUAGES: rules.Languages = {
    "python": language(*(contract for contract in Contract if contract is not Contract.FASTCGI)),
    "php": language(Contract.FASTCGI, Contract.CGI),
    "php-fpm": language(Contract.FASTCGI),
    "c": language(Contract.HTTP_PORT),
}
POLICIES = ("round_robin", "sticky_cookie", "two_choices")
DYNAMIC = {"policy": "dynamic", "max_workers": 5}


def app(**keys: Any) -> AppSpec:
    return msgspec.convert({"name": "a", "route": "/a", "language": "python", "source": "/a.py", **keys}, AppSpec)


def process(**keys: Any) -> ServiceSpec:
    return msgspec.convert({"name": "p", "command": ["p"], **keys}, ServiceSpec)


def findings(app: AppSpec) -> dict[str, str]:
    return dict(rules.of_app(app, LANGUAGES, POLICIES))


RIGHT: dict[str, dict[str, Any]] = {
    "as the model has it": {},
    "no workers under static": {"pool": {"max_workers": 0}},
    "dynamic as in PHP-FPM's example": {"pool": DYNAMIC},
    "ondemand": {"pool": {"policy": "ondemand"}},
    "other settings of dynamic do not matter to static": {"pool": {"min_spare": 9, "max_spare": 0}},
    "http-shared": {"protocol": "http-shared"},
    "a policy of one's own": {"selection": "/policies/mine.py"},
    "a breaker and retries of cgi": {"protocol": "cgi", "breaker": {"failures": 5}, "retries": {"on": ["reset"]}},
    "checks and ejections": {"health_check": {"interval": 1}, "outliers": {"consecutive_errors": 5}},
    "cgi with limits": {"protocol": "cgi", "cgi": {"time": 1}},
    "a site": {"language": "php", "site": {"root": "/srv", "deny": ["/data"]}},
    "settings of PHP": {"language": "php", "php": {"ini": {"session.gc_maxlifetime": "1"}}},
    "php-fpm serves many at a time": {"language": "php-fpm", "concurrency": 8},
    "target": {"scaling": {"metric": "cpu", "target": 50}},
    "thresholds": {"scaling": {"metric": "cpu", "high": 80, "low": 20}},
    "low of zero": {"scaling": {"metric": "queue", "high": 1}},
    "scaling of dynamic": {"pool": DYNAMIC, "scaling": {"metric": "cpu", "target": 50, "min_workers": 3}},
}


@pytest.mark.parametrize("keys", RIGHT.values(), ids=RIGHT)
def test_what_goes_together_is_let_pass(keys: dict[str, Any]) -> None:
    assert findings(app(**keys)) == {}


def pool(**keys: Any) -> dict[str, Any]:
    return {"pool": keys}


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no spare": (pool(**DYNAMIC, min_spare=0), "pool.min_spare", "found 0, expected at least 1:"),
    "spare crossed": (pool(**DYNAMIC, min_spare=3, max_spare=2), "pool.max_spare", "found 2, expected at least 3"),
    "more spare than workers": (
        pool(**DYNAMIC, max_spare=6),
        "pool.max_spare",
        "found 6, expected at most 5, which is max_workers",
    ),
    "start below": (pool(**DYNAMIC, start_workers=0), "pool.start_workers", "found 0, expected 1 to 3"),
    "start above": (pool(**DYNAMIC, start_workers=4), "pool.start_workers", "found 4, expected 1 to 3"),
    "floor above ceiling": (pool(**DYNAMIC, min_workers=6), "pool.min_workers", "found 6, expected at most 5"),
    "ondemand of none": (pool(policy="ondemand", max_workers=0), "pool.max_workers", "found 0, expected at least 1"),
    "ondemand without idling": (pool(policy="ondemand", idle_timeout=0), "pool.idle_timeout", "found 0, expected more"),
    "ondemand with standby": (pool(policy="ondemand", standby=1), "pool.standby", "found 1, expected 0: ondemand"),
    "no time to start": (pool(start_timeout=0), "pool.start_timeout", "found 0, expected more"),
    "a connection in no time": ({"timeouts": {"connect": 0}}, "timeouts.connect", "set a day: 86400"),
    "an answer in no time": ({"timeouts": {"response_head": 0}}, "timeouts.response_head", "found 0, expected more"),
    "probing all the time": ({"liveness": {"interval": 0}}, "liveness.interval", "found 0, expected more"),
    "no time to answer": ({"liveness": {"timeout": 0}}, "liveness.timeout", "found 0, expected more"),
    "patience grows with overload": (
        {"shedding": {"target": 2, "interval": 0.5}},
        "shedding.target",
        "found 2, expected at most 0.5, which is shedding.interval",
    ),
    "back-off crossed": (pool(backoff_initial=2, backoff_max=1), "pool.backoff_initial", "found 2, expected at most 1"),
    "recycling what is not counted": (
        {"protocol": "http-shared", "pool": {"max_requests": 5}},
        "pool.max_requests",
        "found 5, expected 0: on http-shared only the kernel knows",
    ),
    "a policy that nobody knows": (
        {"selection": "two_choises"},
        "selection",
        'found "two_choises", expected a selection policy, or a Python file that ends in .py. Did you mean "two_',
    ),
    "a policy spelt otherwise": (
        {"selection": "Least-Connections"},
        "selection",
        'found "Least-Connections", expected a selection policy, or a Python file that ends in .py. Known: round_robin',
    ),
    "loyal to whom the kernel chooses": (
        {"protocol": "http-shared", "selection": "sticky_cookie"},
        "selection",
        'found "sticky_cookie", expected another policy: on http-shared only the kernel knows',
    ),
    "idling that is not seen": (
        {"protocol": "http-shared", "pool": {"policy": "ondemand"}},
        "pool.policy",
        'found "ondemand", expected "static"',
    ),
    "standby on one socket": ({"protocol": "http-shared", "pool": {"standby": 1}}, "pool.standby", "found 1"),
    "checking whom the kernel chooses": (
        {"protocol": "http-shared", "health_check": {"interval": 1}},
        "health_check.interval",
        "found 1, expected 0: on http-shared only the kernel knows",
    ),
    "ejecting whom the kernel chooses": (
        {"protocol": "http-shared", "outliers": {"consecutive_errors": 5}},
        "outliers",
        "found an ejection of workers, expected none: on http-shared only the kernel knows",
    ),
    "checking a program": (
        {"protocol": "cgi", "health_check": {"interval": 1}},
        "health_check.interval",
        "found 1, expected 0: a CGI process serves one request and ends",
    ),
    "ejecting a program": (
        {"protocol": "cgi", "outliers": {"success_rate_factor": 1.9}},
        "outliers",
        "found an ejection",
    ),
    "checking in no time": (
        {"health_check": {"interval": 1, "timeout": 0}},
        "health_check.timeout",
        "found 0, expected more",
    ),
    "ejections crossed": (
        {"outliers": {"base_ejection": 400}},
        "outliers.base_ejection",
        "found 400, expected at most 300, which is max_ejection",
    ),
    "standby of cgi": ({"protocol": "cgi", "pool": {"standby": 1}}, "pool.standby", "found 1, expected 0: a CGI"),
    "recycling of cgi": ({"protocol": "cgi", "pool": {"max_requests": 1}}, "pool.max_requests", "found 1, expected 0"),
    "policy of cgi": ({"protocol": "cgi", "pool": {"policy": "dynamic"}}, "pool.policy", 'found "dynamic", expected'),
    "queue at a cgi worker": ({"protocol": "cgi", "queue": "worker"}, "queue", 'found "worker", expected "upstream"'),
    "scaling of cgi": ({"protocol": "cgi", "scaling": {"metric": "cpu", "target": 5}}, "scaling", "found rules"),
    "cgi limits of others": ({"cgi": {"time": 1}}, "cgi", "found limits of CGI processes, but the protocol is http-"),
    "FastCGI two at a time": ({"language": "php", "concurrency": 2}, "concurrency", "found 2, expected 1"),
    "the source of another language": ({"source": "/a.c"}, "source", 'found "a.c", expected a A file (.py or .pyw).'),
    "FPM's children, measured": (
        {"language": "php-fpm", "scaling": {"metric": "memory", "target": 5}},
        "scaling.metric",
        'found "memory", expected one of: in_flight, queue, rps: of PHP-FPM the lab measures the master alone',
    ),
    "ondemand scaled to none": (
        {"pool": {"policy": "ondemand"}, "scaling": {"metric": "queue", "high": 1, "min_workers": 0}},
        "scaling.min_workers",
        "found 0, expected at least 1: scaling moves max_workers",
    ),
    "a contract that it does not keep": (
        {"language": "c", "protocol": "cgi"},
        "protocol",
        'found "cgi", expected http-port: that is how programs in c',
    ),
    "one of several": ({"language": "php", "protocol": "http-fd"}, "protocol", "expected one of: fastcgi, cgi:"),
    "unknown language": (
        {"language": "pyton"},
        "language",
        'found "pyton", expected a language of the lab. Did you mean "python"?',
    ),
    "a site over HTTP": ({"site": {"root": "/srv"}}, "site", "but the protocol is http-port; expected one of: cgi, f"),
    "a site of nothing": ({"language": "php", "site": {"root": ""}}, "site.root", "found nothing, expected a folder"),
    "a script without ending": (
        {"language": "php", "site": {"root": "/srv", "scripts": ["php"]}},
        "site.scripts[0]",
        'found "php", expected the ending',
    ),
    "a denied name": (
        {"language": "php", "site": {"root": "/srv", "deny": ["/a", "data"]}},
        "site.deny[1]",
        'found "data", expected a path that begins with /',
    ),
    "PHP for others": ({"php": {"version": "8.2"}}, "php", "but the language is python; expected them for php"),
    "a wrong ini name": ({"language": "php", "php": {"ini": {"a b": "1"}}}, "php.ini", 'found the name "a b"'),
    "two ini lines": ({"language": "php", "php": {"ini": {"a": "1\nb=2"}}}, "php.ini.a", "expected one line"),
    "both ways to scale": (
        {"scaling": {"metric": "cpu", "target": 5, "high": 9}},
        "scaling",
        "found target 5 beside high 9",
    ),
    "no way to scale": ({"scaling": {"metric": "cpu"}}, "scaling.high", "found 0, expected more than 0, which is low"),
    "thresholds crossed": ({"scaling": {"metric": "cpu", "high": 1, "low": 2}}, "scaling.high", "found 1, expected mo"),
    "bounds crossed": (
        {"scaling": {"metric": "cpu", "target": 5, "min_workers": 3, "max_workers": 2}},
        "scaling.min_workers",
        "found 3, expected at most 2",
    ),
    "scaling below the spare": (
        {"pool": DYNAMIC, "scaling": {"metric": "cpu", "target": 5}},
        "scaling.min_workers",
        "found 1, expected at least 3, which is max_spare",
    ),
    "the status page's route": ({"route": "/pool-status/"}, "route", 'found "/pool-status/", expected another route'),
    "a name in env": ({"env": {"A=B": "1"}}, "env", 'found the name "A=B", expected letters'),
    "the lab's own variable": ({"env": {"LISTEN_FDS": "1"}}, "env", "found LISTEN_FDS, expected another name"),
    "NUL in env": ({"env": {"A": "\0"}}, "env.A", "found a NUL byte"),
}


@pytest.mark.parametrize(("keys", "key", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_go_together_is_named_with_its_key_and_why(keys: dict[str, Any], key: str, message: str) -> None:
    found = findings(app(**keys))
    assert list(found) == [key]
    assert message in found[key]


PROCESSES_RIGHT: dict[str, dict[str, Any]] = {
    "as the model has it": {},
    "PORT is its own": {"env": {"PORT": "1"}},
    "tcp": {"health": {"method": "tcp", "address": "[::1]:6379"}},
    "http": {"health": {"method": "http", "url": "http://localhost?x=1"}},
    "command": {"health": {"method": "command", "command": ["true"]}},
    "file": {"health": {"method": "file", "path": "/tmp/x"}},
}


@pytest.mark.parametrize("keys", PROCESSES_RIGHT.values(), ids=PROCESSES_RIGHT)
def test_a_process_that_is_right_is_let_pass(keys: dict[str, Any]) -> None:
    assert list(rules.of_process(process(**keys))) == []


def health(**keys: Any) -> dict[str, Any]:
    return {"health": keys}


PROCESSES_WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no program": ({"command": [""]}, "command", "found an empty first word"),
    "NUL in the command": ({"command": ["a", "\0"]}, "command", "found a NUL byte"),
    "unknown signal": ({"stop_signal": "SIGTEM"}, "stop_signal", 'found "SIGTEM", expected the name of a signal. Did'),
    "tcp without address": (health(method="tcp"), "health.address", "found nothing, expected host:port"),
    "tcp without port": (health(method="tcp", address="localhost"), "health.address", 'found "localhost", expected ho'),
    "tcp with a path": (health(method="tcp", address="a:1/b"), "health.address", 'found "a:1/b", expected host:port'),
    "tcp with a large port": (health(method="tcp", address="a:99999"), "health.address", 'found "a:99999", expected h'),
    "http without url": (health(method="http"), "health.url", "found nothing, expected a URL"),
    "https": (health(method="http", url="https://a/"), "health.url", 'found "https://a/", expected a URL such as'),
    "a space in a URL": (health(method="http", url="http://a/b c"), "health.url", "expected a URL"),
    "no command": (health(method="command"), "health.command", "found nothing, expected a command"),
    "an empty command": (health(method="command", command=[""]), "health.command", "found nothing, expected a command"),
    "no file": (health(method="file"), "health.path", "found nothing, expected the path of a file"),
    "asked in another way": (health(url="http://a/"), "health.url", "but the method is process; expected it for the m"),
    "never asked": (health(interval=2, start_timeout=1), "health.start_timeout", "found 1, expected more than 2"),
    "a name in env": ({"env": {"": "1"}}, "env", 'found the name ""'),
}


@pytest.mark.parametrize(("keys", "key", "message"), PROCESSES_WRONG.values(), ids=PROCESSES_WRONG)
def test_a_process_that_is_wrong_is_named_with_its_key_and_why(keys: dict[str, Any], key: str, message: str) -> None:
    found = dict(rules.of_process(process(**keys)))
    assert list(found) == [key]
    assert message in found[key]


def told(apps: Sequence[AppSpec], processes: Sequence[ServiceSpec]) -> list[tuple[str, str, str]]:
    return [(one.place, one.key, one.message) for one in rules.of_lab(apps, processes, LANGUAGES, POLICIES)]


def test_what_is_wrong_with_one_is_told_with_its_place() -> None:
    (problem,) = rules.of_lab(
        [app(), app(name="b", route="/b", concurrency=2, language="php")], [process()], LANGUAGES, POLICIES
    )
    assert (problem.place, problem.name, problem.key) == ("apps[1]", "b", "concurrency")


def test_apps_and_processes_may_not_share_names_nor_apps_routes() -> None:
    assert told([app(), app(route="/b")], [process(), process(name="a")]) == [
        ("apps[1]", "name", 'found "a", expected another one: apps[0] has it already.'),
        ("processes[1]", "name", 'found "a", expected another one: apps[0] has it already.'),
    ]
    assert told([app(), app(name="b", route="/a/")], []) == [
        ("apps[1]", "route", 'found "/a/", expected another one: apps[0] has it already.')
    ]


def test_what_is_needed_has_to_be_there() -> None:
    redis = process(name="redis")
    assert told([app(needs=["redis"])], [redis]) == []
    assert told([app(needs=["reddis"])], [redis, process(needs=["zzz"])]) == [
        ("apps[0]", "needs[0]", 'found "reddis", expected a process of this lab. Did you mean "redis"?'),
        ("processes[1]", "needs[0]", 'found "zzz", expected a process of this lab. Known: p, redis.'),
    ]


def test_an_app_cannot_be_needed() -> None:
    ((place, key, message),) = told([app()], [process(needs=["a"])])
    assert (place, key) == ("processes[0]", "needs[0]")
    assert message.startswith('found "a", expected a process')


@pytest.mark.parametrize(
    ("graph", "circle"),
    [
        ({"a": ["a"]}, "a -> a"),
        ({"a": ["b"], "b": ["a"]}, "a -> b -> a"),
        ({"x": ["a"], "a": ["b"], "b": ["c", "y"], "c": ["a"], "y": []}, "a -> b -> c -> a"),
    ],
)
def test_a_circle_is_shown_in_the_order_of_need(graph: dict[str, list[str]], circle: str) -> None:
    ((_, key, message),) = told([], [process(name=name, needs=needs) for name, needs in graph.items()])
    assert key == "needs"
    shown = message.removeprefix("found the circle ").partition(",")[0].split(" -> ")
    assert shown[0] == shown[-1]
    assert all(later in graph[earlier] for earlier, later in pairwise(shown))
    assert set(shown) == set(circle.split(" -> "))


def test_a_long_chain_is_no_circle() -> None:
    chain = [process(name=f"p{number}", needs=[f"p{number + 1}"]) for number in range(3000)]
    assert told([], [*chain, process(name="p3000")]) == []


@pytest.mark.parametrize("address", ["", "a", ":1", "a:0", "u@a:1", "a:1:2", "a:x", "[::1]", "[a:1"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        rules.host_and_port(address)


def test_addresses_and_urls_are_taken_apart() -> None:
    assert rules.host_and_port("[::1]:80") == ("::1", 80)
    assert rules.http_target("http://localhost") == ("localhost", 80, "/")
    assert rules.http_target("http://[::1]:9/a?b=c") == ("::1", 9, "/a?b=c")


def test_a_head_needs_its_time() -> None:
    (problem,) = rules.of_proxy(ProxySettings(timeouts=ClientTimeouts(request_head=0)))
    assert (problem.key, "found 0, expected more" in problem.message) == ("timeouts.request_head", True)


@pytest.mark.parametrize("network", ["300.1.1.1", "::1/200", "a:b"])
def test_what_is_no_network_cannot_be_trusted(network: str) -> None:
    (problem,) = rules.of_proxy(ProxySettings(trusted=("127.0.0.1", network)))
    assert (problem.place, problem.key) == ("proxy", "trusted[1]")
    assert "expected an address or a network" in problem.message


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"tls": "files"}, ["certificate", "key"]),
        ({"tls": "files", "certificate": "/a.pem"}, ["key"]),
        ({"tls": "self_signed", "key": "/a.pem"}, ["key"]),
        ({"certificate": "/a.pem"}, ["certificate"]),
        ({"tls": "files", "certificate": "/a.pem", "key": "/b.pem"}, []),
        ({"tls": "self_signed"}, []),
    ],
)
def test_certificate_and_key_belong_to_tls_with_files(keys: dict[str, str], found: list[str]) -> None:
    listener = msgspec.convert(keys, ListenerSpec)
    assert [problem.key for problem in rules.of_listener(listener)] == found
