"""The status page speaks PHP-FPM's words."""

import json

import msgspec
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from lab.core.states import WorkerState
from lab.pool.status import PoolStatus, ProcessStatus, RequestStatus, metrics, render


def process(pid: int, state: WorkerState = WorkerState.READY, in_flight: int = 0) -> ProcessStatus:
    return ProcessStatus(
        pid=pid, state=state, started_wall=1_700_000_000.0, since_s=61.5, requests=7, in_flight=in_flight
    )


STATUS = PoolStatus(
    pool="search",
    policy="static",
    started_wall=1_700_000_000.0,
    since_s=61.5,
    accepted=12,
    queue=1,
    max_queue=4,
    queue_length=512,
    max_active=2,
    max_children_reached=0,
    slow_requests=0,
    processes=(process(41), process(42, in_flight=1), process(43, WorkerState.STARTING)),
)


def test_the_text_page_has_the_fields_of_php_fpm_in_its_order():
    names = [line.partition(":")[0] for line in render(STATUS).splitlines()]
    assert names == [
        "pool", "process manager", "start time", "start since", "accepted conn", "listen queue", "max listen queue",
        "listen queue len", "idle processes", "active processes", "total processes", "max active processes",
        "max children reached", "slow requests",
    ]  # fmt: skip
    assert "start time:           14/Nov/2023:22:13:20 +0000\n" in render(STATUS)


def test_only_a_ready_worker_without_a_request_is_idle():
    page = json.loads(render(STATUS, as_json=True))
    assert (page["idle processes"], page["active processes"], page["total processes"]) == (1, 2, 3)
    assert "processes" not in page


def test_full_adds_every_process():
    page = json.loads(render(STATUS, as_json=True, full=True))
    assert [(one["pid"], one["state"]) for one in page["processes"]] == [
        (41, "Idle"),
        (42, "Running"),
        (43, "Starting"),
    ]
    assert render(STATUS, full=True).count("pid: ") == 3


def test_a_process_tells_its_request_as_php_fpm_does():
    asked = RequestStatus(duration_s=0.0123, method="POST", uri="/api/search?q=x", length=5)
    one = msgspec.structs.replace(process(41), request=asked, cpu_percent=12.345, rss_bytes=4096)
    page = json.loads(render(msgspec.structs.replace(STATUS, processes=(one,)), as_json=True, full=True))
    assert page["processes"] == [
        {
            "pid": 41, "state": "Idle", "start time": "14/Nov/2023:22:13:20 +0000", "start since": 61, "requests": 7,
            "request duration": 12300, "request method": "POST", "request uri": "/api/search?q=x", "content length": 5,
            "last request cpu": 12.35, "last request memory": 4096,
        }
    ]  # fmt: skip


def test_what_is_not_measured_is_left_out():
    one = msgspec.structs.replace(process(41), requests=None, in_flight=None)
    page = json.loads(render(msgspec.structs.replace(STATUS, processes=(one,)), as_json=True, full=True))
    assert set(page["processes"][0]) == {"pid", "state", "start time", "start since"}


def test_openmetrics_holds_every_pool_and_is_read_by_prometheus():
    other = msgspec.structs.replace(STATUS, pool="auth", accepted=3)
    page = metrics((STATUS, other)).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    accepted = families["phpfpm_accepted_connections"]
    assert accepted.type == "counter"
    assert {sample.labels["pool"]: sample.value for sample in accepted.samples} == {"search": 12, "auth": 3}
    assert families["phpfpm_active_processes"].samples[0].value == 2
    assert page.endswith("# EOF\n")
