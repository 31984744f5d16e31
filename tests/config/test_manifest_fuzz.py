"""Whatever stands in a manifest, the answer is a manifest or a `ConfigError`, and never anything else."""

import copy
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lab import paths
from lab.config.manifest import load
from lab.core.errors import ConfigError

SAMPLE = json.loads((paths.content("samples") / "manifest.json").read_text())
SAMPLE["apps"][1] |= {"liveness": {"fall": 2}, "timeouts": {"queue": 1.5}, "queue": "worker", "health": "/health"}
SAMPLE["apps"][0] |= {"protocol": "http-port", "scaling": {"metric": "cpu", "target": 50}, "needs": ["redis"]}
SAMPLE["processes"] = [
    {"name": "redis", "command": ["redis-server"], "health": {"method": "tcp", "address": "127.0.0.1:6379"}},
    {"name": "filled", "command": ["./fill"], "needs": ["redis"], "restart": "never", "env": {"A": "1"}},
]

words = st.sampled_from(["name", "apps", "pool", "version", "env", "...", "a.b", "a[0]", "`", "$", ""]) | st.text(
    max_size=5
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(words, below, max_size=3),
    max_leaves=8,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, key) for key, _ in items] + [place for _, below in items for place in places(below)]


def attempt(text: str, ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"lab.{ending}"
        file.write_text(text)
        with suppress(ConfigError):
            load(file)


@settings(deadline=None)
@given(values)
def test_any_json_is_a_manifest_or_a_config_error(document: Any) -> None:
    attempt(json.dumps(document), "json")


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10**6), values)
def test_any_one_wrong_value_is_a_manifest_or_a_config_error(which: int, value: Any) -> None:
    document = copy.deepcopy(SAMPLE)
    found = places(document)
    container, key = found[which % len(found)]
    container[key] = value
    attempt(json.dumps(document), "json")


@settings(deadline=None)
@given(st.integers(0, 10**6), words, values)
def test_any_one_key_more_is_a_manifest_or_a_config_error(which: int, word: str, value: Any) -> None:
    document = copy.deepcopy(SAMPLE)
    containers = [container for container, _ in places(document) if isinstance(container, dict)]
    containers[which % len(containers)][word] = value
    attempt(json.dumps(document), "json")


@settings(deadline=None)
@given(st.text(alphabet='ab=[]{}".,\n 1#', max_size=40))
def test_any_text_is_toml_or_a_config_error(text: str) -> None:
    attempt(text, "toml")
