"""Users for locust, and the reports of what they saw.

The only module that imports locust. The lab never imports it, for importing locust patches sockets: it runs in a child
process, which `lab.load.runner` starts.

It reads the profile from the environment and writes `lab.load.results.Report` as JSON lines to `--report-fd`.
"""

import os
import random
import signal
import time
from typing import Any

import gevent
import locust
import locust.stats
import msgspec
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import STATE_INIT, MasterRunner, WorkerRunner

from lab.load.profiles import Profile
from lab.load.results import Report

PROFILE = msgspec.json.decode(os.environ["CGILAB_LOAD_PROFILE"], type=Profile)
INTERVAL = 0.5
"""Seconds between reports."""
LAST_WORDS = 5.0
"""The most seconds that the processes of a run may take to end: two for answers that are awaited, and some to leave."""


def three_digits(milliseconds: float) -> float:
    """Three digits of it, down to a microsecond: locust keeps whole ones, a C worker answers in a fraction of one."""
    return round(float(f"{milliseconds:.3g}"), 3)


# Locust looks both names up in its module at each use; the report's charts would have a point every 5 s only.
locust.stats.bucket_response_time = three_digits
locust.stats.HISTORY_STATS_INTERVAL_SEC = 1
# How often the processes of a run tell the one that reports: as often as that one tells the lab.
locust.runners.WORKER_REPORT_INTERVAL = INTERVAL


class Visitor(locust.FastHttpUser):
    """Sends requests as a Poisson process, one at a time: late after a slow answer, it does not catch up."""

    in_flight = 0
    """Requests of all users that wait for their answer."""
    began_at: float | None = None
    """When the first request of all left, in monotonic seconds: one clock for every process of this machine."""

    def on_start(self) -> None:
        self.due = time.perf_counter()
        gevent.sleep(self.wait_time())

    def wait_time(self) -> float:
        """Seconds until the next request."""
        now = time.perf_counter()
        self.due = max(now, self.due + random.expovariate(PROFILE.user_rate))
        return self.due - now

    @locust.task
    def visit(self) -> None:
        """One request. A redirect counts as an answer: following it could leave the lab."""
        Visitor.in_flight += 1
        Visitor.began_at = Visitor.began_at or time.monotonic()
        try:
            with self.client.get(PROFILE.target, allow_redirects=False, catch_response=True) as response:
                if response.status_code >= 400:
                    response.failure(f"status {response.status_code}")
                elif response.status_code == 0:
                    response.failure(f"no answer: {type(response.error).__name__}")
                else:
                    response.success()
        finally:
            Visitor.in_flight -= 1


class Curve(locust.LoadTestShape):
    """The profile's number of users, second by second."""

    over = False
    """Somebody stopped the run. It ends as it would have ended later: any other way, locust waits for nobody."""

    def tick(self) -> tuple[int, float] | None:
        """How many users now, and a spawn rate that brings all of them at once."""
        users = None if self.over else PROFILE.users_at(self.get_run_time())
        return None if users is None else (users, float(PROFILE.users))


class Reporter:
    """Writes what was counted to a descriptor, every half second and once at the end."""

    def __init__(self, environment: Environment, descriptor: int) -> None:
        self._environment = environment
        self._descriptor = descriptor
        self._seen: dict[float, int] = {}
        self._processes: dict[str, dict[str, Any]] = {}

    def heard(self, client_id: str, data: dict[str, Any]) -> None:
        """What another process of this run says of itself, beside what locust adds up by itself."""
        self._processes[client_id] = data["lab"]

    def run(self) -> None:
        """Report until the process ends. When nobody reads any more there is nothing to run for."""
        try:
            while True:
                self.report()
                gevent.sleep(INTERVAL)
        except BrokenPipeError:
            self._environment.runner.quit()

    def report(self) -> None:
        """Write one line."""
        data = msgspec.json.encode(self._measure()) + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _measure(self) -> Report:
        stats = self._environment.stats
        total = stats.total
        processes = [*self._processes.values()] or [_myself()]
        latest: dict[float, int] = dict(total.response_times)
        latencies = {round(ms * 1000): many - self._seen.get(ms, 0) for ms, many in latest.items()}
        self._seen = latest
        return Report(
            at=time.monotonic(),
            users=self._environment.runner.user_count,
            sent=total.num_requests + sum(process["in_flight"] for process in processes),
            answered=total.num_requests - total.num_failures,
            failed=total.num_failures,
            began_at=min((at for process in processes if (at := process["began_at"]) is not None), default=None),
            ended_at=_monotonic(total.last_request_timestamp),
            latencies={us: many for us, many in latencies.items() if many},
            errors={str(error.error): error.occurrences for error in stats.errors.values()},
            cpu_s=sum(process["cpu_s"] for process in processes) / len(processes),
            processes=len(processes),
            interrupted=Curve.over,
        )


def _monotonic(wall: float | None) -> float | None:
    """A time of day as locust keeps it, on the clock that the lab measures with."""
    return None if not wall else time.monotonic() - (time.time() - wall)


def _myself() -> dict[str, Any]:
    return {"in_flight": Visitor.in_flight, "cpu_s": time.process_time(), "began_at": Visitor.began_at}


def tell(client_id: str, data: dict[str, Any]) -> None:
    """Add to a process's regular message what locust does not count."""
    data["lab"] = _myself()


def leave(environment: Environment, **_: Any) -> None:
    """Let a process that is told to end wait for its answers, and tell what it counted before it says good-bye."""
    environment.runner.stop()
    data: dict[str, Any] = {}
    environment.events.report_to_master.fire(client_id=environment.runner.client_id, data=data)
    environment.runner.send_message("stats", data)


@locust.events.init_command_line_parser.add_listener
def add_arguments(parser: LocustArgumentParser) -> None:
    """Where reports go."""
    parser.add_argument("--report-fd", type=int, required=True, help="descriptor that JSON lines are written to")


@locust.events.init.add_listener
def begin(environment: Environment, **_: Any) -> None:
    """Start reporting. A worker of a distributed run tells its master, and the master reports."""
    if isinstance(environment.runner, WorkerRunner):
        environment.events.report_to_master.add_listener(tell)
        environment.events.quitting.add_listener(leave)  # called before locust's own, which says good-bye
        return
    reporter = Reporter(environment, environment.parsed_options.report_fd)
    greenlet = gevent.spawn(reporter.run)

    def end(**_: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if isinstance(environment.runner, MasterRunner):
            gather(environment.runner)
        greenlet.kill()
        reporter.report()

    def interrupt(*_: object) -> None:
        """The first interrupt ends the run; one that comes later would cut the HTML report short."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if environment.runner.state == STATE_INIT:
            raise KeyboardInterrupt
        Curve.over = True

    environment.events.test_stop.add_listener(end)
    if isinstance(environment.runner, MasterRunner):
        environment.events.worker_report.add_listener(reporter.heard)
    signal.signal(signal.SIGINT, interrupt)


def gather(master: MasterRunner) -> None:
    """Have the other processes of a run end, and wait for what they counted last, which they send before they leave.

    Locust itself waits half a second for it: less than a user may wait for an answer, or a busy machine may take.
    """
    for client in master.clients.all:
        master.send_message("quit", client_id=client.id)
    with gevent.Timeout(LAST_WORDS, exception=False):
        while master.clients:
            gevent.sleep(0.02)
