"""Points 24 and 26, on the gateway in a process of its own: what bodies and clients cost it. See tests/bench."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench"


def measured(script: str, *given: str) -> dict:
    """What a script under tests/bench found."""
    command = [sys.executable, BENCH / script, *given, "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)


def test_26_a_long_body_takes_no_memory_whichever_way_it_goes():
    found = measured("bodies.py", "--size", "100000000", "--rounds", "1")
    assert found["cgilab down"]["grown_kb"] < 8 * 1024
    assert found["cgilab up"]["grown_kb"] < 8 * 1024


def test_26_an_idle_client_costs_less_than_6_kb():
    assert measured("idle.py", "--clients", "3000", "--rounds", "1")["bytes_a_client"] < 6000


def test_24_slow_clients_do_not_slow_down_a_healthy_one():
    found = measured("loris.py", "--clients", "200", "--seconds", "2", "--rounds", "1")
    assert found["among_slow_ones"]["p50_ms"] < 50
