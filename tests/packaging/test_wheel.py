"""The wheel works away from the checkout: built, installed into a fresh environment, and used as a person would."""

import json
import os
import subprocess
import sys
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=200)
    (built,) = folder.glob("cgilab-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh environment that has the wheel and the pinned set."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    command = [folder / "bin" / "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(command, check=True, timeout=280)
    return folder / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing points to the checkout or to the user's own folders."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CGILAB", "XDG"))}
    folders = {name: str(tmp_path / name) for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")}
    return {**kept, **folders, "HOME": str(tmp_path)}


def run(installed: Path, elsewhere: dict[str, str], *words: str) -> str:
    command = [installed / "cgilab", *words]
    done = subprocess.run(command, cwd=elsewhere["HOME"], env=elsewhere, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kept(folder: str) -> set[str]:
    """Files of a content folder, as the wheel has to name them."""
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"lab/_content/{path.relative_to(ROOT)}" for path in files}


@pytest.mark.parametrize("folder", ["lessons", "samples", "exercises"])
def test_the_wheel_carries_what_the_lab_brings_along(wheel: Path, folder: str) -> None:
    wanted = kept(folder)
    assert wanted
    assert wanted <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_carries_the_data_files_of_the_package(wheel: Path) -> None:
    data = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "lab").rglob("*")
        if path.is_file() and path.suffix in {".json", ".tcss", ".typed"}
    }
    assert "lab/config/languages.json" in data
    assert data <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_carries_neither_tests_nor_caches(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.startswith("tests/") or "__pycache__" in name] == []


def test_the_installed_lab_is_not_the_checkout(installed: Path, elsewhere: dict[str, str]) -> None:
    command = [installed / "python", "-c", "import lab; print(lab.__file__)"]
    done = subprocess.run(command, cwd=elsewhere["HOME"], env=elsewhere, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(installed.parent)


def test_the_installed_command_tells_its_version(installed: Path, elsewhere: dict[str, str], wheel: Path) -> None:
    version = run(installed, elsewhere, "version").split()[1]
    assert wheel.name.startswith(f"cgilab-{version}-")


def test_the_installed_doctor_knows_the_languages(installed: Path, elsewhere: dict[str, str]) -> None:
    found = json.loads(run(installed, elsewhere, "doctor", "--json"))
    assert found["version"] == 1
    assert {"c", "python"} <= {language["name"] for language in found["languages"]}


def test_the_installed_lessons_are_found(installed: Path, elsewhere: dict[str, str]) -> None:
    assert "first-look" in run(installed, elsewhere, "lesson", "list")


def test_the_installed_lab_serves_the_apps_that_it_brings_along(installed: Path, elsewhere: dict[str, str]) -> None:
    command = [installed / "cgilab", "up", "--port", "0", "--json"]
    lab = subprocess.Popen(command, cwd=elsewhere["HOME"], env=elsewhere, stdout=subprocess.PIPE, text=True)
    assert lab.stdout is not None
    try:
        url, ready = "", set()
        for line in lab.stdout:
            event = json.loads(line)
            if event["kind"] == "proxy.listening":
                url = event["data"]["url"]
            if event["kind"] == "endpoint.in":
                ready.add(event["app"])
            if url and ready == {"auth", "search"}:
                break
        assert ready == {"auth", "search"}, "the lab ended early"
        with urllib.request.urlopen(f"{url}/api/search?q=test", timeout=40) as answer:
            assert json.load(answer)["pid"] > 0
    finally:
        lab.terminate()
        lab.communicate(timeout=60)
    assert lab.returncode == 0
