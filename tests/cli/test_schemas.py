"""Every `--json` has a published JSON Schema, and the schema is the one of the code that prints it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

SCHEMAS = {
    "lab.core.events": "event",
    "lab.core.snapshot": "snapshot",
    "lab.core.standing": "standing",
    "lab.core.trace": "trace",
    "lab.config.manifest": "manifest",
    "lab.engine.doctor": "doctor",
    "lab.load.results": "result",
}


@pytest.mark.parametrize("module", SCHEMAS)
def test_a_published_schema_is_current_and_valid(module: str) -> None:
    place = Path(str(importlib.import_module(module).__file__)).with_name(f"{SCHEMAS[module]}.schema.json")
    made = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, check=True, timeout=60).stdout
    assert made == place.read_text(), f"run: python -m {module} > {place}"
    jsonschema.Draft202012Validator.check_schema(json.loads(made))
