"""A script as it was."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from lab.pool.frozen import as_it_was, freeze

SCRIPT = """
import pathlib
import beside
here = pathlib.Path(__file__)
print(beside.VALUE, (here.parent / "data.txt").read_text(), (here.parents[1] / "shared.txt").read_text(), here.name)
"""


def _script(tmp_path):
    folder = tmp_path / "app" / "python"
    folder.mkdir(parents=True)
    (folder / "beside.py").write_text("VALUE = 'imported'\n")
    (folder / "data.txt").write_text("opened")
    (folder.parent / "shared.txt").write_text("shared")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return script


def test_the_copy_finds_what_the_original_found_beside_it_and_above(tmp_path):
    script = _script(tmp_path)
    copy = freeze(script, tmp_path / "cache")
    script.unlink()
    said = subprocess.run((sys.executable, str(copy)), capture_output=True, text=True, check=True).stdout
    assert said == "imported opened shared script.py\n"


def test_the_script_itself_runs_as_long_as_it_says_what_it_said(tmp_path):
    script = _script(tmp_path)
    copy = freeze(script, tmp_path / "cache")
    assert as_it_was(script, copy) == script
    script.write_text("raise SystemExit(1)\n")
    assert as_it_was(script, copy) == copy
    script.write_text(SCRIPT)
    assert as_it_was(script, copy) == script
    script.unlink()
    assert as_it_was(script, copy) == copy


def test_the_same_text_is_copied_once_and_another_one_apart(tmp_path):
    script = _script(tmp_path)
    first = freeze(script, tmp_path / "cache")
    assert freeze(script, tmp_path / "cache") == first
    script.write_text("pass\n")
    second = freeze(script, tmp_path / "cache")
    assert (first.read_text(), second.read_text()) == (SCRIPT, "pass\n")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_apps_that_share_a_script_may_freeze_it_at_the_same_moment(tmp_path):
    script = _script(tmp_path)
    together = Barrier(8)

    def one(_):
        together.wait()
        return freeze(script, tmp_path / "cache")

    with ThreadPoolExecutor(8) as threads:
        copies = set(threads.map(one, range(8)))
    assert len(copies) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [copies.pop().parents[1].name]
