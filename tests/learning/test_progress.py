"""Progress survives crashes and damage, and tells the truth about both."""

from pathlib import Path

import pytest

from lab.core.errors import LabError
from lab.learning.progress import Prediction, Progress


def test_what_was_done_is_known_to_the_next_session(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "progress.json"
    first = Progress(file)
    first.predicted("first-look", "heal", "100 ms")
    first.predicted("first-look", "heal", "100 ms", "far")
    first.finish("first-look", 1_700_000_000.0)
    second = Progress(file)
    assert second.done("first-look")
    assert not second.done("cgi-cost")
    assert second.record("first-look").predictions == {"heal": Prediction("100 ms", "far")}
    assert [one.name for one in file.parent.iterdir()] == ["progress.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 1, "lessons": 3}', b"\xff\x00"])
def test_a_damaged_file_is_set_aside_whole_and_told(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "progress.json"
    for number in (1, 2):
        file.write_bytes(damage)
        progress = Progress(file)
        aside = tmp_path / f"progress.json.damaged-{number}"
        assert aside.read_bytes() == damage
        assert str(aside) in progress.notice
        assert not progress.done("first-look")
    progress.finish("first-look", 1.0)
    assert Progress(file).done("first-look")


def test_a_file_that_cannot_be_written_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    progress = Progress(tmp_path / "state" / "progress.json")
    with pytest.raises(LabError, match=r"progress\.json"):
        progress.finish("first-look", 1.0)
    assert progress.done("first-look"), "the session itself goes on knowing it"
