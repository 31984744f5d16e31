"""A whole lesson in a plain terminal, driven by lines as a person or a pipe sends them."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.engine.local import LocalLab
from lab.learning import lessons, line_mode
from lab.learning.progress import Progress

Write = Callable[..., Path]


@pytest.fixture
def short(write_lesson: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short lesson is one of the lab's own."""
    folder = write_lesson()
    monkeypatch.setattr("lab.paths.content", lambda kind: folder if kind == "lessons" else CONTENT(kind))


CONTENT = lessons.paths.content


async def talk(lab: LocalLab, file: Path, typed: str) -> tuple[int, list[str]]:
    said: list[str] = []
    code = await line_mode.run(lab, "short", progress=Progress(file), source=io.StringIO(typed), write=said.append)
    return code, said


@pytest.mark.usefixtures("short")
async def test_a_lesson_can_be_piped_from_its_first_line_to_its_last(lab: LocalLab, tmp_path: Path) -> None:
    code, said = await talk(lab, tmp_path / "p.json", "1\nk\n1\n2\n\n")
    assert code == line_mode.FINISHED
    assert all("\n" not in line and "**" not in line for line in said)
    order = [
        "Scene 1 of 1: Kill",
        "Kept: 1 ms.",
        "0.0 ms: SIGKILL sent",
        "Passed: it was replaced.",
        "Yes.",
        "The lesson is done.",
    ]
    places = [said.index(line) for line in order]
    assert places == sorted(places)
    assert any(line.endswith("READY, and back in the balancer") for line in said)
    assert Progress(tmp_path / "p.json").done("short")


@pytest.mark.usefixtures("short")
async def test_the_end_of_input_leaves_the_lesson_and_brings_the_lab_back(lab: LocalLab, tmp_path: Path) -> None:
    before = await lab.spec()
    code, said = await talk(lab, tmp_path / "p.json", "1\n")
    assert code == line_mode.LEFT
    assert "left before its end" in said[-1]
    assert await lab.spec() == before
    assert not Progress(tmp_path / "p.json").done("short")


@pytest.mark.usefixtures("short")
async def test_what_cannot_be_done_now_is_answered_with_why(lab: LocalLab, tmp_path: Path) -> None:
    _, said = await talk(lab, tmp_path / "p.json", "k\n:kill random\n\n9\n1\nx\nz\n:kill nobody\nq\n")
    text = "\n".join(said)
    for answer in (
        "Commit your prediction first",
        "number from 1 to 2",
        "expected 1 to 2",
        "Found 'x'",
        "not part of this step",
        "nobody",
    ):
        assert answer in text


@pytest.mark.usefixtures("short")
async def test_a_command_of_the_lab_counts_as_well_as_a_key(lab: LocalLab, tmp_path: Path) -> None:
    code, said = await talk(lab, tmp_path / "p.json", "2\n:kill search/0\n2\n\n")
    assert code == line_mode.FINISHED
    assert any("sent through this lab" in line for line in said)


async def test_a_death_that_the_page_quotes_is_told_once(
    lab: LocalLab, write_lesson: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_lesson("PID {{ death.pid }} died by {{ death.signal }}.", "{{ death.told }}")
    monkeypatch.setattr("lab.paths.content", lambda kind: folder if kind == "lessons" else CONTENT(kind))
    _, said = await talk(lab, tmp_path / "p.json", "1\nk\n1\n2\n\n")
    assert sum("died by SIGKILL, sent through this lab" in line for line in said) == 1


@pytest.mark.usefixtures("short")
async def test_damaged_progress_is_told_first(lab: LocalLab, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{")
    _, said = await talk(lab, tmp_path / "p.json", "q\n")
    assert "was damaged" in said[0]
