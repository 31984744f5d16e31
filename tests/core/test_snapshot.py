"""A snapshot, encoded, is what `cgilab status --json` promises, and what its published schema says."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec

import lab.core.snapshot
from lab.core.snapshot import AppSnapshot, Invariants, LabSnapshot, Totals, Traffic, WorkerSnapshot
from lab.core.states import WorkerState

SCHEMA = Path(lab.core.snapshot.__file__).with_name("snapshot.schema.json")

WORKER = WorkerSnapshot(
    slot=0,
    generation=3,
    pid=4121,
    state=WorkerState.READY,
    stopped=False,
    endpoint="127.0.0.1:40021",
    routed=True,
    requests=918,
    in_flight=2,
    restarts=2,
    uptime_s=3.1,
    cpu_percent=1.2,
    rss_bytes=1884160,
    rps=31.2,
    p50_ms=0.4,
    p99_ms=2.1,
)
APP = AppSnapshot(
    name="search",
    route="/api/search",
    language="c",
    policy="static",
    selection="round_robin",
    concurrency=32,
    wanted=1,
    workers=(WORKER,),
    queue=0,
    rps=31.2,
    p50_ms=0.4,
    p95_ms=1.9,
    p99_ms=2.1,
)
SNAPSHOT = LabSnapshot(
    name="lab",
    listener="http://127.0.0.1:8080",
    uptime_s=12.4,
    at=1000.0,
    apps=(APP,),
    totals=Totals(accepted=918, answered=911, failed=1, shed=4, in_flight=2, retries=3, rps=312.0, p50_ms=0.5),
    own=Traffic(rate=5.0, totals=Totals()),
    invariants=Invariants(conserved=True, no_zombies=True, within_bounds=True),
    events_next=1,
)

PROMISED: dict[str, set[str]] = {
    "lab": {"version", "name", "listener", "uptime_s", "apps", "totals", "invariants", "faults"},
    "app": {"name", "route", "language", "policy", "selection", "workers"},
    "worker": {
        "slot",
        "generation",
        "pid",
        "state",
        "endpoint",
        "requests",
        "in_flight",
        "restarts",
        "uptime_s",
        "cpu_percent",
        "rss_bytes",
        "p50_ms",
        "p99_ms",
    },
    "totals": {
        "accepted",
        "answered",
        "failed",
        "shed",
        "abandoned",
        "in_flight",
        "retries",
        "tunnels",
        "tunnel_bytes",
        "rps",
        "p50_ms",
        "p95_ms",
        "p99_ms",
    },
    "invariants": {
        "conserved",
        "no_zombies",
        "within_bounds",
        "only_ready",
        "stops_are_final",
        "backoff_kept",
        "probes_on_time",
    },
}


def encoded(snapshot: LabSnapshot) -> dict[str, Any]:
    return dict(json.loads(msgspec.json.encode(snapshot)))


def test_the_json_has_every_key_that_is_promised() -> None:
    status = encoded(SNAPSHOT)
    app = status["apps"][0]
    assert set(status) >= PROMISED["lab"]
    assert set(app) >= PROMISED["app"]
    assert set(app["workers"][0]) >= PROMISED["worker"]
    assert set(status["totals"]) == PROMISED["totals"]
    assert set(status["invariants"]) == PROMISED["invariants"]
    assert (status["version"], app["workers"][0]["state"], status["totals"]["p95_ms"]) == (1, "ready", None)


def test_a_snapshot_survives_the_way_through_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(SNAPSHOT), type=LabSnapshot) == SNAPSHOT


def test_the_published_schema_accepts_a_snapshot_and_refuses_an_invented_state() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    status = encoded(SNAPSHOT)
    assert not list(validator.iter_errors(status))
    status["apps"][0]["workers"][0]["state"] = "asleep"
    assert list(validator.iter_errors(status))


def test_an_app_is_found_by_its_name() -> None:
    assert SNAPSHOT.app("search") is APP
    assert SNAPSHOT.app("nothing") is None
