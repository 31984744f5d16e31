"""A short sample of the soak: see tests/bench/soak.py for what is looked at."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "bench" / "soak.py"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("options", [[], ["--tls"]], ids=["plain", "tls"])
def test_a_lab_that_is_treated_badly_keeps_its_invariants_and_leaks_nothing(options):
    argv = [sys.executable, SOAK, "--seconds", "10", *options]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=220)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Everything held." in run.stdout
