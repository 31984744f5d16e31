"""Every manifest that comes along or stands in a README is right: in form, and in meaning where its files are here."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import lab.config.manifest
from lab import paths
from lab.config.manifest import load

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads(Path(lab.config.manifest.__file__).with_name("manifest.schema.json").read_text())
SAMPLES = sorted(paths.content("samples").glob("*.json"))
EXAMPLES = [
    json.loads(block)
    for file in (ROOT / "README.md", paths.content("samples") / "README.md")
    for block in re.findall(r"```json\n(.*?)```", file.read_text(), re.DOTALL)
]


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_a_sample_keeps_to_the_schema_that_it_names_and_to_the_rules(file: Path) -> None:
    sample = json.loads(file.read_text())
    assert (file.parent / sample["$schema"]).resolve() == Path(lab.config.manifest.__file__).with_name(
        "manifest.schema.json"
    )
    jsonschema.validate(sample, SCHEMA)
    if all((file.parent / app["source"]).is_file() for app in sample["apps"]):  # Debian brings those of php-apps.json
        assert [app.name for app in load(file).apps] == [app["name"] for app in sample["apps"]]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: "-".join(app["name"] for app in example["apps"]))
def test_an_example_of_a_readme_is_a_manifest(tmp_path: Path, example: dict[str, Any]) -> None:
    for app in example["apps"]:
        source = tmp_path / app["source"]
        source.parent.mkdir(parents=True, exist_ok=True)
        source.touch()
    file = tmp_path / "lab.json"
    file.write_text(json.dumps(example))
    assert len(load(file).apps) == len(example["apps"])
    jsonschema.validate(example, SCHEMA)
