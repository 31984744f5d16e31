"""What the commands print of a lab, one fact a line."""

from typing import cast

from msgspec.structs import replace

from lab import report
from lab.core.events import Event, EventKind
from lab.core.snapshot import (
    AppSnapshot,
    BreakerSnapshot,
    Invariants,
    LabSnapshot,
    LeadSnapshot,
    ProxySnapshot,
    RouteSnapshot,
    ServiceSnapshot,
    Totals,
    Traffic,
    WorkerSnapshot,
)
from lab.core.states import BreakerState, EndpointHealth, ServiceState, WorkerState
from lab.engine.lab import Lab


def snapshot(*processes: ServiceSnapshot, waits_for: tuple[str, ...] = ()) -> LabSnapshot:
    app = AppSnapshot(
        name="search", route="/s", language="c", policy="static", selection="round_robin", concurrency=1, wanted=0,
        workers=(), queue=0, rps=0.0, p50_ms=None, p95_ms=None, p99_ms=None, max_workers=2, waits_for=waits_for,
    )  # fmt: skip
    return LabSnapshot(
        name="lab", listener="http://127.0.0.1:1", uptime_s=1.0, at=1.0, apps=(app,), processes=processes,
        totals=Totals(), own=Traffic(rate=0, totals=Totals()),
        invariants=Invariants(conserved=True, no_zombies=True, within_bounds=True), events_next=1,
    )  # fmt: skip


async def test_status_tells_each_process_beside_the_pool_and_which_apps_wait_for_them() -> None:
    nobody = cast("Lab", None)  # without workers nobody is asked for their output
    redis = ServiceSnapshot(
        name="redis", state=ServiceState.STARTING, pid=7, health="tcp", restarts=2, needs=("disk",), uptime_s=1.0,
        why="It is slow.",
    )  # fmt: skip
    lines = (await report.status(nobody, snapshot(redis, waits_for=("redis",)), full=True)).splitlines()
    told = "redis  pid 7  starting (asked by tcp)  2 restarts  needs disk  It is slow."
    assert told in lines
    assert any(line.startswith("search") and "waits for redis" in line for line in lines)
    assert "redis" not in await report.status(nobody, snapshot(), full=True)


async def test_25_status_tells_limits_in_force_and_what_they_refused() -> None:
    proxy = ProxySnapshot(connections=3, max_connections=10, pending=1, shed={"queue full": 2, "client rate": 7})
    told = await report.status(cast("Lab", None), replace(snapshot(), proxy=proxy), full=False)
    assert "limits: 3 of 10 connections\n" in told
    assert "\nrefused by a limit: client rate 7, queue full 2\n" in told
    app = replace(snapshot().apps[0], shed={"queue full": 2, "client rate": 7})
    told = await report.status(cast("Lab", None), replace(snapshot(), apps=(app,)), full=False)
    assert "\n  refused by a limit: client rate 7, queue full 2\n" in told
    assert "limit" not in await report.status(cast("Lab", None), snapshot(), full=False)


async def test_15_status_tells_what_of_a_workers_load_are_tunnels() -> None:
    worker = WorkerSnapshot(
        slot=0, generation=1, pid=7, state=WorkerState.READY, stopped=False, endpoint="127.0.0.1:2", routed=True,
        requests=3, in_flight=3, restarts=0, uptime_s=1.0, cpu_percent=None, rss_bytes=None, rps=0.0, p50_ms=None,
        p99_ms=None,
    )  # fmt: skip
    for tunnels, words in ((2, "  3 in flight (2 of them tunnels)  "), (0, "  3 in flight  ")):
        app = replace(snapshot().apps[0], workers=(replace(worker, tunnels=tunnels),))
        assert words in await report.status(cast("Lab", None), replace(snapshot(), apps=(app,)), full=False)


async def test_21_status_tells_what_the_proxy_thinks_of_an_app_and_its_workers() -> None:
    worker = WorkerSnapshot(
        slot=1, generation=1, pid=7, state=WorkerState.READY, stopped=False, endpoint="127.0.0.1:9", routed=False,
        requests=3, in_flight=0, restarts=0, uptime_s=1.0, cpu_percent=None, rss_bytes=None, rps=0.0, p50_ms=None,
        p99_ms=None, health=EndpointHealth.EJECTED, health_why="failed 5 requests in a row.", ejected_for_s=12.0,
    )  # fmt: skip
    lab = snapshot()
    breaker = BreakerSnapshot(state=BreakerState.OPEN, why="It failed.", probe_in_s=3.0)
    app = replace(lab.apps[0], workers=(worker,), breaker=breaker, panic=True)
    told = await report.status(cast("Lab", None), replace(lab, apps=(app,)), full=False)
    _, _, head, row, *_ = told.splitlines()
    assert "  circuit breaker open, a probe in 3.0 s  PANIC" in head
    assert "  ejected to the proxy for 12.0 s: it failed 5 requests in a row." in row


async def test_17_status_tells_each_route_that_was_written_down_with_the_shares_it_really_sent() -> None:
    leads = (
        LeadSnapshot(app="search", weight=9, requests=18, share=90.0),
        LeadSnapshot(app="next", weight=1, requests=2, share=None),
    )
    canary = RouteSnapshot(
        name="canary", takes="GET /s", implied=False, leads=leads, requests=20, in_flight=0,
        classes=(0, 0, 19, 0, 0, 1), errors=1, rps=2.0, p50_ms=1.0, p95_ms=2.0, p99_ms=3.0,
    )  # fmt: skip
    own = replace(canary, name="search", implied=True, leads=leads[:1])
    told = await report.status(cast("Lab", None), replace(snapshot(), routes=(canary, own)), full=False)
    leading = "to search 9 of 10 (got 90.0 %), next 1 of 10"
    assert f"route canary  GET /s  {leading}  2.0 req/s  p50 1.0 ms  p99 3.0 ms  1 error of 20" in told.splitlines()
    assert told.count("route ") == 1


def test_an_event_is_one_line_however_many_its_words_are() -> None:
    text = "search/0 died. Its last words:   def\n    ^^^\nSyntaxError"
    line = report.event_line(Event(seq=7, at=1.0, wall=1.0, kind=EventKind.NOTE, text=text))
    assert line.endswith("  #7  search/0 died. Its last words:   def | ^^^ | SyntaxError")


async def test_18_status_tells_a_policy_of_ones_own_by_the_name_of_its_file() -> None:
    shown = snapshot()
    app = replace(shown.apps[0], selection="/home/somebody/policies/mine.py")
    for policy, told in ((shown, " round_robin "), (replace(shown, apps=(app,)), " mine.py ")):
        assert told in await report.status(cast("Lab", None), policy, full=False)


async def test_15_status_tells_tunnels_and_which_certificate_clients_trust() -> None:
    lab = replace(snapshot(), totals=Totals(tunnels=2, tunnel_bytes=77), certificate="/state/self-signed.crt")
    told = (await report.status(cast("Lab", None), lab, full=False)).splitlines()
    assert told[1] == "clients trust /state/self-signed.crt"
    assert "tunnels: 2 open, 77 bytes carried so far" in told
    plain = await report.status(cast("Lab", None), snapshot(), full=False)
    assert "tunnels" not in plain
    assert "trust" not in plain
