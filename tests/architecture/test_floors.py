"""What each floor brings along when it is imported, seen from a fresh interpreter: a contract that reads only import
statements would not see what a third party drags in.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lab"

_HEAVY = {"textual", "locust", "gevent", "httpx", "fastapi", "uvicorn", "pytest"}
_OWN = {"lab.tui": {"textual"}}
_FLOORS = sorted(f"lab.{entry.name}" for entry in PACKAGE.iterdir() if (entry / "__init__.py").exists())


def brought(module: str) -> set[str]:
    """Every module that a fresh interpreter holds after importing `module` and all below it, but the locustfile."""
    below = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / module.replace(".", "/")).rglob("*.py")
        if path.stem not in {"__init__", "locustfile"}
    ]
    return after(f"import {', '.join([module, *below])}")


def after(statement: str) -> set[str]:
    """Every module that a fresh interpreter, away from the checkout, holds after `statement`."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True, cwd="/"
    )
    return set(json.loads(done.stdout))


def roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


@pytest.mark.parametrize("floor", [*_FLOORS, "lab.cli", "lab.bootstrap", "lab.conversation", "lab.report"])
def test_a_floor_brings_nothing_heavy_that_is_not_its_own(floor: str) -> None:
    assert roots(brought(floor)) & _HEAVY <= _OWN.get(floor, set())


def test_core_brings_nothing_of_the_lab_but_itself() -> None:
    own = {module for module in brought("lab.core") if module.startswith("lab.")}
    assert {module for module in own if not module.startswith("lab.core")} == set()


@pytest.mark.parametrize(("one", "other"), [("lab.pool", "lab.proxy"), ("lab.proxy", "lab.pool")])
def test_pool_and_proxy_never_meet(one: str, other: str) -> None:
    assert not any(module.startswith(other) for module in brought(one))


def test_the_command_line_is_cheap_to_import() -> None:
    brings = brought("lab.cli")
    assert roots(brings) & {"asyncio", "msgspec", "psutil", "uvloop", "rich", "platformdirs"} == set()
    assert {module for module in brings if module.startswith("lab.")} == {"lab.cli", "lab.core", "lab.core.errors"}


def test_a_command_that_asks_a_running_lab_imports_nothing_that_makes_one() -> None:
    brings = after("import lab.cli, lab.conversation, lab.report")
    assert roots(brings) & {"uvloop", "watchfiles"} == set()
    assert brings & {"lab.bootstrap", "lab.engine.engine", "lab.pool.supervisor", "lab.wire.http1"} == set()


def test_the_version_alone_imports_nothing() -> None:
    assert {module for module in after("import lab") if module.startswith("lab")} == {"lab"}


def test_the_import_contracts_of_pyproject_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], capture_output=True, text=True, timeout=100, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
