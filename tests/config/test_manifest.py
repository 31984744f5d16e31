"""A manifest is right in form and in meaning, or one sentence says where it is wrong."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import lab.config.manifest
from lab import paths
from lab.config.documents import LARGEST
from lab.config.manifest import load
from lab.core.errors import ConfigError
from lab.core.model import ListenerSpec

APP = {"name": "a", "route": "/a", "language": "python", "source": "a.py"}
SCHEMA = Path(lab.config.manifest.__file__).with_name("manifest.schema.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.py", "a.c"):
        (tmp_path / name).touch()
    return tmp_path


def written(folder: Path, **keys: Any) -> Path:
    """A manifest of one app, with `keys` in place of its own."""
    file = folder / "lab.json"
    file.write_text(json.dumps({"version": 1, "apps": [APP], **keys}))
    return file


def complaint(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(file) in caught.value.message
    return str(caught.value)


def test_the_manifest_that_comes_along_loads_and_names_two_apps() -> None:
    manifest = load(paths.content("samples") / "manifest.json")
    assert [(app.name, app.route, app.language, app.pool.max_workers) for app in manifest.apps] == [
        ("search", "/api/search", "c", 3),
        ("auth", "/api/auth", "python", 2),
    ]
    assert all(Path(app.source).is_absolute() and Path(app.source).is_file() for app in manifest.apps)


def test_sources_are_relative_to_the_manifest_not_to_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(folder, apps=[{**APP, "source": "../" + folder.name + "/./a.py"}])
    monkeypatch.chdir(folder.parent)
    assert load(Path(folder.name) / "lab.json").apps[0].source == str(folder / "a.py")


def test_toml_and_json_say_the_same(folder: Path) -> None:
    toml = folder / "lab.toml"
    toml.write_text(
        'version = 1\n[listener]\nport = 0\n[[apps]]\nname = "a"\nroute = "/a"\nlanguage = "python"\nsource = "a.py"\n'
        "[apps.pool]\nmax_workers = 5\nstop_timeout = 2\n"
    )
    pool = {"max_workers": 5, "stop_timeout": 2}
    assert load(toml) == load(written(folder, listener={"port": 0}, apps=[{**APP, "pool": pool}]))
    assert load(toml).listener == ListenerSpec(port=0)


def test_certificates_are_found_from_the_manifests_folder(folder: Path) -> None:
    tls = {"tls": "files", "certificate": "tls/one.crt", "key": "/etc/one.key"}
    listener = load(written(folder, listener=tls)).listener
    assert (listener.certificate, listener.key) == (str(folder / "tls/one.crt"), "/etc/one.key")
    with pytest.raises(ConfigError, match=r"listener\.key: found nothing, expected a PEM file"):
        load(written(folder, listener={**tls, "key": ""}))


WRONG_KEYS = {
    "vesion": ({"vesion": 1}, 'vesion: found a key that is not known here. Did you mean "version"?'),
    "listener.prt": (
        {"listener": {"prt": 1}},
        'listener.prt: found a key that is not known here. Did you mean "port"?',
    ),
    "proxy.limits.bdy": (
        {"proxy": {"limits": {"bdy": 1}}},
        'proxy.limits.bdy: found a key that is not known here. Did you mean "body"?',
    ),
}


@pytest.mark.parametrize(("keys", "expected"), WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_an_unknown_key_is_named_with_the_nearest_known_one(folder: Path, keys: dict[str, Any], expected: str) -> None:
    assert expected in complaint(written(folder, **keys))


@pytest.mark.parametrize("level", ["pool", "liveness", "timeouts"])
def test_an_unknown_key_of_an_app_is_found_at_every_level(folder: Path, level: str) -> None:
    assert f"apps[0].{level}.zzz: found a key" in complaint(written(folder, apps=[{**APP, level: {"zzz": 1}}]))


WRONG_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "A b"}, 'apps[0].name: found "A b", expected a name of lower-case letters'),
    "name of the proxy": ({"name": "proxy"}, 'apps[0].name: found "proxy", expected another name'),
    "line feed after a name": ({"name": "a\n"}, 'apps[0].name: found "a\\n", expected'),
    "route without slash": ({"route": "a"}, 'apps[0].route: found "a", expected a path that begins with /'),
    "route with a query": ({"route": "/a?b"}, 'apps[0].route: found "/a?b", expected a path'),
    "unknown language": (
        {"language": "pyton"},
        'found "pyton", expected a language of the lab. Did you mean "python"?',
    ),
    "missing source": ({"source": "b.py"}, "apps[0].source: found no file"),
    "NUL in a source": ({"source": "\0.py"}, "apps[0].source: found no file"),
    "endless source": ({"source": "x" * 5000 + ".py"}, "apps[0].source: found no file"),
    "a folder as source": ({"source": ".."}, "apps[0].source: found"),
    "suffix of another language": ({"source": "a.c"}, 'found "a.c", expected a Python file (.py)'),
    "text for a number": (
        {"pool": {"max_workers": "3"}},
        'pool.max_workers: found "3", expected a whole number from 0',
    ),
    "below the least": ({"pool": {"max_workers": -1}}, "max_workers: found -1, expected a whole number from 0 to 1000"),
    "too many workers": ({"pool": {"max_workers": 10**9}}, "found 1000000000, expected a whole number from 0 to 1000"),
    "half a request": (
        {"concurrency": 1.5},
        "apps[0].concurrency: found 1.5, expected a whole number, at least 1.",
    ),
    "for ever": ({"pool": {"stop_timeout": 1e300}}, "stop_timeout: found 1e+300, expected a number from 0 to 31536000"),
    "unknown policy": (
        {"pool": {"policy": "statc"}},
        'found "statc", expected one of: static, dynamic, ondemand. Did you mean "static"?',
    ),
    "unknown contract": ({"protocol": "http-prt"}, 'found "http-prt", expected one of: http-port, http-unix'),
    "unknown metric": (
        {"scaling": {"metric": "cp", "target": 1}},
        'apps[0].scaling.metric: found "cp", expected one of: cpu, memory, in_flight, rps, queue. Did you mean "cpu"?',
    ),
    "number for yes or no": ({"pool": {"spawn_on_starved": 1}}, "spawn_on_starved: found 1, expected true or false"),
    "no document root": (
        {"protocol": "cgi", "site": {"root": "none"}},
        "apps[0].site.root: found no folder /",
    ),
    "a document root that is not said": (
        {"protocol": "cgi", "site": {}},
        "apps[0].site.root: found nothing, expected text in quotes.",
    ),
    "no front controller": (
        {"protocol": "cgi", "site": {"root": ".", "front_controller": "index.php"}},
        "apps[0].site.front_controller: found no file index.php in /",
    ),
    "no further folder": (
        {"protocol": "cgi", "site": {"root": ".", "allow": ["..", "none"]}},
        "apps[0].site.allow[1]: found no folder /",
    ),
    "scaling without a metric": (
        {"scaling": {"target": 1}},
        "apps[0].scaling.metric: found nothing, expected one of: cpu, memory, in_flight, rps, queue.",
    ),
    "scaling without a way": ({"scaling": {"metric": "cpu"}}, "apps[0].scaling.high: found 0, expected more than 0"),
    "scaling to nothing": (
        {"scaling": {"metric": "cpu", "target": 1, "max_workers": 0}},
        "scaling.max_workers: found 0, expected a whole number from 1 to 1000.",
    ),
    "more than the kernel can say": (
        {"resources": {"files": 10**30}},
        "resources.files: found 1000000000000000000000000000000, expected a whole number",
    ),
    "a version as a number": ({"php": {"version": 8.2}}, "php.version: found 8.2, expected a version such as 8.2, in"),
    "a version as a path": ({"php": {"version": "../8"}}, 'php.version: found "../8", expected a version such as 8.2'),
    "PHP settings of Python": ({"php": {"version": "8.2"}}, "apps[0].php: found settings of PHP, but the language is"),
    "a number in php.ini": ({"php": {"ini": {"a": 1}}}, "apps[0].php.ini.a: found 1, expected text in quotes."),
    "settings that do not go together": (
        {"pool": {"policy": "dynamic", "max_workers": 2}},
        "apps[0].pool.max_spare: found 3, expected at most 2, which is max_workers: an idle worker is a worker too.",
    ),
    "number for a choice": (
        {"selection": 3},
        "selection: found 3, expected the name of a selection policy, or the path of a Python",
    ),
    "null for an object": ({"pool": None}, "apps[0].pool: found null, expected an object with keys such as policy"),
    "number in env": ({"env": {"B": "1", "A": 1}}, "apps[0].env.A: found 1, expected text"),
    "name in env": ({"env": {"A=B": "1"}}, 'apps[0].env: found the name "A=B", expected letters'),
    "PORT in env": ({"env": {"PORT": "1"}}, "apps[0].env: found PORT, expected another name"),
    "NUL in env": ({"env": {"A": "\0"}}, "apps[0].env.A: found a NUL byte"),
    "half a character": ({"env": {"A": "\ud800"}}, "apps[0].env.A: found half of a surrogate pair"),
}


@pytest.mark.parametrize(("keys", "expected"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_wrong_value_is_named_with_what_was_found_and_what_is_expected(
    folder: Path, keys: dict[str, Any], expected: str
) -> None:
    assert expected in complaint(written(folder, apps=[{**APP, **keys}]))


WRONG_ROUTES: dict[str, tuple[dict[str, Any], str]] = {
    "half a weight": ({"apps": {"b": 1, "a": 1.5}}, "routes[0].apps.a: found 1.5, expected a whole number from 0 to"),
    "a negative weight": ({"apps": {"a": -1}}, "routes[0].apps.a: found -1, expected a whole number from 0 to"),
    "no name of an app": ({"apps": {"A b": 1}}, 'routes[0].apps: found "A b", expected a name of lower-case letters'),
    "no app": ({"apps": {}}, "routes[0].apps: found {}, expected an object of names and numbers, at least 1."),
    "a list of apps": ({"apps": ["a"]}, 'routes[0].apps: found ["a"], expected an object of names and numbers'),
    "an unknown app": ({"apps": {"b": 1}}, 'routes[0].apps: found "b", expected an app of this lab. Known: a.'),
    "an unknown key": ({"pth": "/"}, 'routes[0].pth: found a key that is not known here. Did you mean "path"?'),
    "a number as a value": ({"headers": {"x": 1}}, "routes[0].headers.x: found 1, expected text in quotes."),
    "a method": ({"methods": ["get"]}, 'routes[0].methods[0]: found "get", expected a method in capital letters'),
    "every host": ({"host": "*"}, 'routes[0].host: found "*", expected a host such as example.org'),
    "a host with a port": ({"host": "x:80"}, 'routes[0].host: found "x:80", expected a host such as example.org'),
    "first of all": ({"priority": 9999}, "priority: found 9999, expected a whole number from -1000 to 1000."),
    "rewritten to nowhere": ({"rewrite": "x"}, 'routes[0].rewrite: found "x", expected a path that begins with /'),
}


@pytest.mark.parametrize(("keys", "expected"), WRONG_ROUTES.values(), ids=WRONG_ROUTES)
def test_17_a_wrong_route_is_named_with_what_was_found_and_what_is_expected(
    folder: Path, keys: dict[str, Any], expected: str
) -> None:
    assert expected in complaint(written(folder, routes=[{"name": "r", "path": "/r", "apps": {"a": 1}} | keys]))


def test_missing_keys_are_named(folder: Path) -> None:
    assert "apps[1].route: found nothing, expected a path" in complaint(written(folder, apps=[APP, {"name": "b"}]))
    assert "apps: found [], expected a list of objects, at least 1." in complaint(written(folder, apps=[]))


def test_two_apps_may_not_share_a_name_or_a_route(folder: Path) -> None:
    twin = {**APP, "route": "/b"}
    assert 'apps[1].name: found "a", expected another one: apps[0] has it' in complaint(
        written(folder, apps=[APP, twin])
    )
    slash = {**APP, "name": "b", "route": "/a/"}
    assert 'apps[1].route: found "/a/", expected another' in complaint(written(folder, apps=[APP, slash]))


@pytest.mark.parametrize("network", ["10.0.0.0/99", "10.0.0", "::1/129"])
def test_a_network_that_may_observe_is_an_address(folder: Path, network: str) -> None:
    told = complaint(written(folder, apps=[APP], proxy={"observe_from": ["127.0.0.1", network]}))
    assert f'proxy.observe_from[1]: found "{network}", expected an address' in told


def test_the_route_of_the_status_page_is_taken(folder: Path) -> None:
    told = complaint(written(folder, apps=[{**APP, "route": "/pool-status/"}]))
    assert 'apps[0].route: found "/pool-status/", expected another route' in told


def test_a_route_below_another_one_is_allowed(folder: Path) -> None:
    assert len(load(written(folder, apps=[APP, {**APP, "name": "b", "route": "/a/b"}])).apps) == 2


PROCESS = {"name": "p", "command": ["true"]}

WRONG_PROCESSES: dict[str, tuple[dict[str, Any], str]] = {
    "no command": ({"command": []}, "processes[0].command: found [], expected a list of texts, at least 1."),
    "a command in one text": ({"command": "true 1"}, 'command: found "true 1", expected a list of texts, at least 1.'),
    "twins": ({"needs": ["p", "p"]}, 'processes[0].needs[1]: found "p" twice, expected it once.'),
    "restarting or not": ({"restart": True}, "restart: found true, expected one of: never, on_failure, always."),
    "half a signal": (
        {"stop_signal": "TERM"},
        'stop_signal: found "TERM", expected the name of a signal. Did you mean',
    ),
    "tcp to a name": (
        {"health": {"method": "tcp", "address": "redis"}},
        'health.address: found "redis", expected host:port',
    ),
    "https": (
        {"health": {"method": "http", "url": "https://x"}},
        'health.url: found "https://x", expected a URL such as http://',
    ),
    "name of an app": ({"name": "a"}, 'processes[0].name: found "a", expected another one: apps[0] has it already.'),
    "unknown need": ({"needs": ["q"]}, 'processes[0].needs[0]: found "q", expected a process of this lab. Known: p.'),
    "needing itself": ({"needs": ["p"]}, "processes[0].needs: found the circle p -> p, expected an order"),
    "tcp to nowhere": (
        {"health": {"method": "tcp"}},
        "processes[0].health.address: found nothing, expected host:port, such as 127.0.0.1:6379: the method is tcp.",
    ),
    "unknown method": (
        {"health": {"method": "htp"}},
        'processes[0].health.method: found "htp", expected one of: process, tcp, http, command, file. Did you mean',
    ),
    "unknown key": ({"restrt": "never"}, 'processes[0].restrt: found a key that is not known here. Did you mean "rest'),
    "endless checking": ({"health": {"interval": 0}}, "health.interval: found 0, expected a number from 0.01 to 3600"),
    "no folder": ({"folder": "none"}, "processes[0].folder: found no folder /"),
    "no program": ({"command": ["./none"]}, "processes[0].command: found no file /"),
    "no health program": (
        {"health": {"method": "command", "command": ["./none"]}},
        "processes[0].health.command: found no file /",
    ),
}


@pytest.mark.parametrize(("keys", "expected"), WRONG_PROCESSES.values(), ids=WRONG_PROCESSES)
def test_a_wrong_process_is_named_before_anything_starts(folder: Path, keys: dict[str, Any], expected: str) -> None:
    assert expected in complaint(written(folder, processes=[{**PROCESS, **keys}]))


def test_an_app_that_needs_what_is_not_there_is_named_with_the_nearest_process(folder: Path) -> None:
    told = complaint(written(folder, apps=[{**APP, "needs": ["reddis"]}], processes=[{**PROCESS, "name": "redis"}]))
    assert 'apps[0].needs[0]: found "reddis", expected a process of this lab. Did you mean "redis"?' in told


def test_paths_of_processes_and_sites_are_relative_to_the_manifest(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "more").mkdir()
    (folder / "run").touch()
    process = {
        **PROCESS,
        "command": ["./run", "--into", "../x", "plain", "/dev/null"],
        "folder": "data",
        "health": {"method": "file", "path": "data/ready"},
    }
    site = {**APP, "protocol": "cgi", "site": {"root": "data", "allow": ["/etc", "more"]}}
    manifest = load(written(folder, apps=[site], processes=[process, {**PROCESS, "name": "q"}]))
    first, second = manifest.processes
    assert first.command == (str(folder / "run"), "--into", str(folder.parent / "x"), "plain", "/dev/null")
    assert (first.folder, first.health.path) == (str(folder / "data"), str(folder / "data" / "ready"))
    assert second.folder == str(folder)
    assert manifest.apps[0].site is not None
    assert (manifest.apps[0].site.root, manifest.apps[0].site.allow) == (
        str(folder / "data"),
        ("/etc", str(folder / "more")),
    )


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "found nothing in it, expected JSON"),
    "blank": (b" \n\t", "found nothing in it"),
    "cut off": (b'{"version": 1,\n  "apps"', ":2:9: not JSON: "),
    "key twice": (b'{"version": 1, "version": 2}', "the key 'version' stands twice"),
    "not UTF-8": (b'{\n"name": "\xff"}', ":2: found a byte 0xff that is not UTF-8"),
    "a list": (b"[]", "the document: found [], expected an object"),
    "a number": (b"3", "the document: found 3, expected an object"),
    "not a number": (b'{"proxy": {"limits": {"body": NaN}}}', "limits.body: found nan, expected a finite number"),
    "comma at the end": (b'{"version": 1,}', ": not JSON: "),  # at the comma from Python 3.13 on, behind it before
    "overflow": (b'{"version": 1e999}', "version: found inf, expected a finite number"),
    "endless number": (b"1" * 6000, "4300 digits"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "deep, and closed": (b'{"a":' * 900 + b"1" + b"}" * 900, "found "),
    "huge": (b" " * (LARGEST + 1), f"found more than {LARGEST} bytes"),
}


@pytest.mark.parametrize(("data", "expected"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_json_is_a_config_error(tmp_path: Path, data: bytes, expected: str) -> None:
    file = tmp_path / "lab.json"
    file.write_bytes(data)
    assert expected in complaint(file)


DAMAGED_TOML: dict[str, tuple[bytes, str]] = {
    "syntax": (b"version = = 1", "not TOML: Invalid value (at line 1, column 11)"),
    "key twice": (b"version = 1\nversion = 1\n", "not TOML: Cannot overwrite a value (at line 2, column 12)"),
    "infinity": (b"version = inf", "version: found inf, expected a finite number"),
    "date": (b"version = 1979-05-27", 'version: found "1979-05-27", expected 1'),
    "deep": (b"a = " + b"[" * 10_000, "nested too deeply"),
    "singular": (b"version = 1\n[[app]]\n", 'app: found a key that is not known here. Did you mean "apps"?'),
}


@pytest.mark.parametrize(("data", "expected"), DAMAGED_TOML.values(), ids=DAMAGED_TOML)
def test_damaged_toml_is_a_config_error(tmp_path: Path, data: bytes, expected: str) -> None:
    file = tmp_path / "lab.toml"
    file.write_bytes(data)
    assert expected in complaint(file)


def test_what_is_no_readable_file_is_a_config_error_and_never_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    assert "expected a file" in complaint(tmp_path / "pipe.json")
    assert "found a folder" in complaint(tmp_path / "folder.json")
    assert "cannot be read" in complaint(tmp_path / "loop.json")
    assert "No such file" in complaint(tmp_path / "none.json")
    assert "cannot be read" in complaint(tmp_path / ("x" * 300 + ".json"))
    assert "cannot be read" in complaint(Path("\0.json"))
    assert "expected .json or .toml" in complaint(tmp_path / "lab.yaml")


def test_a_byte_order_mark_does_no_harm(folder: Path) -> None:
    file = written(folder)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load(file).apps[0].name == "a"


def test_the_published_schema_accepts_the_samples_and_refuses_unknown_keys() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    sample = json.loads((paths.content("samples") / "manifest.json").read_text())
    assert not list(validator.iter_errors(sample))
    sample["apps"][0]["pool"]["max_worker"] = 3
    assert list(validator.iter_errors(sample))
