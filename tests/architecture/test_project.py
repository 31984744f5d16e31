"""Promises of the project about itself: names, files, and the two lines of the README."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from lab.config.languages import load

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()
_TEXT = {".py", ".md", ".toml", ".txt", ".json", ".tcss", ".c", ".inc", ""}


def texts() -> Iterator[Path]:
    """Every text file of the project."""
    folders = [ROOT / name for name in ("lab", "lessons", "samples", "exercises", "tests", ".ci")]
    for path in [*ROOT.glob("*.*"), *(path for folder in folders for path in folder.rglob("*"))]:
        if path.is_file() and path.suffix in _TEXT:
            yield path


def shell_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("python3 -m venv ")]


def test_no_module_is_named_after_nothing() -> None:
    nameless = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [path for path in (ROOT / "lab").rglob("*") if path.stem in nameless] == []


def test_every_module_says_why_it_exists() -> None:
    silent = [path for path in (ROOT / "lab").rglob("*.py") if not path.read_text().startswith(('"""', "'''"))]
    assert silent == []


def test_no_file_refers_to_an_index_or_a_mirror_of_packages() -> None:
    # Written in pieces, so that this file does not find itself.
    telling = re.compile("--(extra-)?index" + "-url|PIP_" + "INDEX_URL|find" + "-links|trusted" + "-host")
    assert [path for path in texts() if telling.search(path.read_text(errors="replace"))] == []


def test_the_readme_has_two_lines_each_with_an_environment_of_its_own() -> None:
    first, second = shell_lines(README)
    assert first.endswith("/cgilab")
    assert second.endswith("/pytest")
    environments = [line.split()[3] for line in (first, second)]
    assert len(set(environments)) == 2
    for line, environment in zip((first, second), environments, strict=True):
        assert line.count(f" {environment}/bin/") == 2
        assert " && " in line
        assert "-c constraints.txt" in line


def test_ci_finds_the_test_line_in_the_readme_and_runs_it() -> None:
    pattern = re.search(r"grep -m 1 '(.*)' README.md", CI)
    assert pattern is not None
    found = subprocess.run(
        ["grep", "-m", "1", pattern[1], "README.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == shell_lines(README)[1]
    assert 'bash -euo pipefail -c "$line"' in CI


def test_ci_is_a_shell_script_without_mistakes_of_syntax() -> None:
    done = subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_requirement_is_pinned_by_name_and_version_and_nothing_else() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+]*", line)] == []
    pinned = {_canonical(line.partition("==")[0]) for line in lines}
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["test"]]
    assert {_canonical(re.split(r"[^A-Za-z0-9._-]", name, maxsplit=1)[0]) for name in wanted} <= pinned


def test_every_dependency_is_justified_where_contributors_look() -> None:
    told = (ROOT / "CONTRIBUTING.md").read_text()
    names = [re.split(r"[^A-Za-z0-9._-]", name, maxsplit=1)[0] for name in PROJECT["project"]["dependencies"]]
    assert [name for name in names if f"- **{name}**" not in told] == []


def test_every_entry_point_of_a_plug_in_can_be_loaded() -> None:
    points = {target for group in PROJECT["project"]["entry-points"].values() for target in group.values()} | set(
        PROJECT["project"]["scripts"].values()
    )
    statements = [f"from {module} import {name}" for module, _, name in (point.partition(":") for point in points)]
    subprocess.run([sys.executable, "-c", "\n".join(statements)], check=True, timeout=100, cwd="/")


def test_every_benchmark_of_the_readme_can_print_json() -> None:
    told = {f"tests/bench/{name}" for name in re.findall(r"\| `(\w+\.py)` \|", README)}
    assert told
    for bench in told:
        done = subprocess.run(
            [sys.executable, bench, "--help"], capture_output=True, text=True, timeout=100, check=True, cwd=ROOT
        )
        assert "--json" in done.stdout, bench
        assert "--rounds" in done.stdout, bench


def test_the_readmes_table_of_languages_is_what_the_lab_knows() -> None:
    """Titles, contracts and install commands; the times are measured, so only that there is one can be checked."""
    rows = re.findall(r"^\| ([^|`]+) \| ((?:`[a-z-]+` ?)+)\| [0-9.]+ ms \| `([^`|]+)` \|$", README, re.MULTILINE)
    told = [(title, tuple(re.findall(r"`([a-z-]+)`", contracts)), hint) for title, contracts, hint in rows]
    assert told == [(one.title, tuple(map(str, one.start)), one.hint) for one in load().values()], (
        "run: python tests/bench/languages.py --table"
    )


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
