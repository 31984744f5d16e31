"""From rule to test: which tests hold a point of the checklist in README.md.

    python tests/conformance/points.py          rewrites the table in README.md
    python tests/conformance/points.py 17       lists the tests of point 17, case by case

A test function says its point in its name (`test_17_...`), a case of a table in its `point`.
"""

import re
import sys
import tomllib
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
README = Path(__file__).with_name("README.md")
POINTS = range(1, 30)
_FUNCTION = re.compile(r"^(?:async )?def (test_(\d{1,2})_\w+)|^class (Test(\d\d)\w+)", re.MULTILINE)
_ROW = re.compile(r"^(\| (\d+) \| .*? \| .*? \|) .*$", re.MULTILINE)


@cache
def functions() -> dict[int, list[tuple[Path, str]]]:
    """File and name of every test that says a point in its name."""
    found: dict[int, list[tuple[Path, str]]] = {point: [] for point in POINTS}
    for path in sorted(TESTS.rglob("test_*.py")):
        for match in _FUNCTION.finditer(path.read_text()):
            point = int(match[2] or match[4])
            if point in found:
                found[point].append((path.relative_to(TESTS), match[1] or match[3]))
    return found


@cache
def cases() -> dict[int, list[tuple[Path, str]]]:
    """Table and name of every case."""
    found: dict[int, list[tuple[Path, str]]] = {point: [] for point in POINTS}
    for path in sorted((TESTS / "conformance" / "tables").glob("*.toml")):
        for case in tomllib.loads(path.read_text())["case"]:
            found[case["point"]].append((path.relative_to(TESTS), case["name"]))
    return found


def files(point: int) -> str:
    """The files that hold a point, as links from README.md."""
    places = dict.fromkeys(path for path, _ in (*cases()[point], *functions()[point]))
    return " ".join(f"[{path.stem}]({_from_readme(path)})" for path in places)


def written(text: str) -> str:
    """README.md with the last column of its table made anew."""
    return _ROW.sub(lambda row: f"{row[1]} {files(int(row[2]))} |", text)


def _from_readme(path: Path) -> str:
    return str(path.relative_to("conformance")) if path.parts[0] == "conformance" else f"../{path}"


def main() -> None:
    if len(sys.argv) > 1:
        point = int(sys.argv[1])
        for path, name in (*cases()[point], *functions()[point]):
            sys.stdout.write(f"tests/{path}: {name}\n")
    else:
        README.write_text(written(README.read_text()))


if __name__ == "__main__":
    main()
