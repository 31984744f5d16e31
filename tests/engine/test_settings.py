"""Settings by name: which keys there are, what their values may be, and what is said of wrong ones."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import NotPossibleError
from lab.core.model import AppSpec, Contract, Metric, PhpSettings, ProxySettings, SiteSpec
from lab.core.states import Policy
from lab.engine.settings import change, listing

APP = AppSpec(name="search", route="/search", language="c", source="/search.c")


def value(app: AppSpec, path: str) -> object:
    found: object = app
    for step in path.split("."):
        found = getattr(found, step)
    return found


@pytest.mark.parametrize(
    ("key", "text", "path", "expected"),
    [
        ("max_workers", "5", "pool.max_workers", 5),
        ("pool.max_workers", "5", "pool.max_workers", 5),
        ("policy", "dynamic", "pool.policy", Policy.DYNAMIC),
        ("spawn_on_starved", "false", "pool.spawn_on_starved", False),
        ("idle_timeout", "2.5", "pool.idle_timeout", 2.5),
        ("idle_timeout", "2", "pool.idle_timeout", 2.0),
        ("selection", "least_connections", "selection", "least_connections"),
        ("concurrency", "8", "concurrency", 8),
        ("liveness.interval", "1", "liveness.interval", 1.0),
        ("resources.files", "64", "resources.files", 64),
        ("protocol", "http-fd", "protocol", Contract.HTTP_FD),
        ("protocol", "null", "protocol", None),
        ("retries.on", "connect,reset,503", "retries.on", ("connect", "reset", "503")),
        ("retries.on", "", "retries.on", ()),
        ("breaker.failures", "5", "breaker.failures", 5),
        ("outliers.success_rate_factor", "1.9", "outliers.success_rate_factor", 1.9),
        ("health_check.path", "/ready?deep", "health_check.path", "/ready?deep"),
        ("health_check.path", "", "health_check.path", ""),
        ("panic_percent", "50", "panic_percent", 50.0),
        ("needs", "redis,mail", "needs", ("redis", "mail")),
        ("needs", "", "needs", ()),
        ("env.GREETING", "a=b c", "env", {"GREETING": "a=b c"}),
        ("env.NUMBER", "5", "env", {"NUMBER": "5"}),
        ("php.ini.session.save_path", "/tmp", "php.ini", {"session.save_path": "/tmp"}),
        ("health", "/ok?a=1", "health", "/ok?a=1"),
    ],
)
def test_a_key_and_a_text_become_a_value_of_the_model(key: str, text: str, path: str, expected: object) -> None:
    changed, _ = change(APP, {key: text})
    assert value(changed, path) == expected
    assert type(value(changed, path)) is type(expected)


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("max_worker", "5", 'Found the setting "max_worker", which no app has. Did you mean "max_workers"?'),
        ("liveness.intervall", "5", 'Did you mean "interval"?'),
        ("zzz", "5", "Known: "),
        ("max_workers", "five", 'max_workers: found "five", expected a whole number from 0 to 1000.'),
        ("max_workers", "1001", 'found "1001", expected a whole number from 0 to 1000'),
        ("max_workers", "2.5", 'found "2.5", expected a whole number'),
        ("idle_timeout", "nan", 'found "nan", expected a number from 0'),
        ("idle_timeout", "-1", "expected a number from 0"),
        ("policy", "elastic", "expected one of: static, dynamic, ondemand"),
        ("protocol", "smoke-signals", "expected one of: http-port"),
        ("route", "no slash", "a path that begins with /"),
        ("name", "other", "name cannot be changed while the app runs"),
        ("liveness", "5", "as in liveness.interval="),
        ("env", "A=1", "as in env.NAME="),
        ("concurrency.most", "5", "concurrency has no parts"),
        ("scaling.high", "5", "missing required field `metric`"),
        ("", "5", "which no app has"),
        ("retries.on", "never", 'found "never", expected a list, each item connect, reset, timeout or a status.'),
        ("weights", "1,x", 'found "1,x", expected a list, each item a whole number from'),
        ("needs", "a,B", 'found "a,B", expected a list, each item a name of lower-case letters, digits and hyphens.'),
    ],
)
def test_a_wrong_key_or_value_is_told_with_what_would_be_right(key: str, text: str, told: str) -> None:
    with pytest.raises(NotPossibleError) as caught:
        change(APP, {key: text})
    assert told in str(caught.value)


def test_a_part_that_the_app_lacks_is_made_of_several_settings_and_taken_away_as_one() -> None:
    scaled, told = change(APP, {"scaling.metric": "cpu", "scaling.target": "60"})
    assert scaled.scaling is not None
    assert (scaled.scaling.metric, scaled.scaling.target) == (Metric.CPU, 60)
    assert (told[0].before, told[0].after) == ("null", "cpu")
    assert change(scaled, {"scaling": "null"})[0] == APP


def test_what_was_changed_is_told_as_text_that_changes_it_back() -> None:
    changed, told = change(APP, {"max_workers": "5", "idle_timeout": "0.5", "spawn_on_starved": "FALSE"})
    assert [(one.before, one.after) for one in told] == [("2", "5"), ("10", "0.5"), ("true", "false")]
    assert change(changed, {one.key: one.before for one in told})[0] == APP


def test_everything_that_is_listed_can_be_set_to_what_it_is() -> None:
    app = msgspec.structs.replace(
        APP, site=SiteSpec(root="/www"), php=PhpSettings(ini={"memory_limit": "64M"}), env={"A": "1"}
    )
    listed = dict(listing(app))
    assert "name" not in listed
    assert (listed["max_workers"], listed["site.root"], listed["php.ini.memory_limit"]) == ("2", "/www", "64M")
    assert change(app, listed)[0] == app


def test_settings_of_the_proxy_are_listed_and_set_like_those_of_an_app() -> None:
    listed = dict(listing(ProxySettings()))
    assert listed["timeouts.idle"] == "60"
    assert change(ProxySettings(), listed)[0] == ProxySettings()


@given(st.text(), st.text())
def test_whatever_is_typed_is_a_setting_or_an_error_that_says_so(key: str, text: str) -> None:
    with contextlib.suppress(NotPossibleError):
        assert change(APP, {key: text})[1][0].key == key
