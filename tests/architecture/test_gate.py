"""What holds for every test: one that does not end is ended."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ENDLESS = """
from hypothesis import given, strategies

@given(strategies.integers())
def test_endless(number):
    while True:
        pass

def test_next():
    pass
"""


def test_a_property_that_does_not_end_is_ended_and_the_next_test_has_its_turn(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (tmp_path / "test_endless.py").write_text(ENDLESS)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_timeout", "--timeout", "1", str(tmp_path)]
    env = os.environ | {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # most of its time goes into them
    run = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert "OutOfTimeError: Timeout (>1.0s)" in run.stdout
    assert "1 failed, 1 passed" in run.stdout
