"""What a choice among endpoints costs, and that it does not grow with their number beyond the policy's own.

    tests/bench/selection.py [--json] [--rounds 5] [--choices 20000] [--traffic [--seconds 3]]

Without --traffic: CPU of a choice and of giving the place back, through the real `Upstream`, with 10 and with 1,000
endpoints of four places each, half of whose places are taken. No sockets, so nothing else is measured. With --traffic:
CPU of the proxy's process for a whole request, by wrk, with 10 and with 200 endpoints behind which the same two C
workers are; so what differs is the choice, not the workers.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from proxy import SEARCH, measure, running

from lab import plugins
from lab.core.clock import SystemClock
from lab.core.events import EventRing
from lab.core.model import Endpoint, Limits, WorkerId
from lab.pool.sockdiag import free_port
from lab.proxy.accounting import Tally
from lab.proxy.backends.python_builtin import PythonBuiltinProxy
from lab.proxy.backends.python_builtin.downstream import Downstream
from lab.proxy.backends.python_builtin.endpoint import EndpointState
from lab.proxy.backends.python_builtin.exchange import Exchange
from lab.proxy.backends.python_builtin.upstream import Upstream
from lab.proxy.manager import ProxySpec, UpstreamSpec
from lab.wire.http1 import parse_request

SIZES = (10, 1000)
TRAFFIC_SIZES = (10, 200)
PLACES = 4


class Unsent(Exchange):
    """A request that is given a place and goes no further: what follows is not the choice's."""

    def proceed(self, endpoint: EndpointState) -> None:
        self.endpoint = endpoint
        endpoint.taken()


def app_of(number: int, policy: str) -> tuple[Upstream, Unsent]:
    """An app with so many endpoints, half of whose places are taken at random; and a request for it."""
    clock = SystemClock()
    proxy = PythonBuiltinProxy(clock, EventRing(clock))
    asyncio.run(proxy.apply(ProxySpec(upstreams=(UpstreamSpec(app="app", route="/", selection=policy),))))
    rng, now = random.Random(number), clock.monotonic()
    for slot in range(number):
        endpoint = Endpoint("app", WorkerId("app", slot, 1), "127.0.0.1", 1, concurrency=PLACES)
        proxy.add(endpoint)
        for _ in range(rng.randrange(PLACES)):
            proxy.acquire(endpoint)
        peak = proxy._endpoints[endpoint].peak
        if peak is not None:
            peak.record(rng.random() / 100, now)
    downstream = Downstream(proxy._gateway)
    downstream.peer = "127.0.0.1"
    exchange = Unsent(downstream, proxy._gateway)
    request = parse_request(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", Limits())
    assert request is not None
    exchange.request, exchange.latency = request, Tally(now)
    return proxy._upstreams["app"], exchange


def choices(upstream: Upstream, exchange: Unsent, number: int) -> float:
    """CPU microseconds of one choice and of its end."""
    admit = upstream.admit
    begin = time.process_time()
    for _ in range(number):
        admit(exchange)
        exchange.endpoint.release()
    return (time.process_time() - begin) / number * 1e6


def cost_of_choices(rounds: int, number: int) -> dict[str, dict[str, float]]:
    """Medians by policy and number of endpoints, rounds interleaved; and the ratio of the two."""
    document = {}
    for policy in plugins.names("cgilab.selection"):
        apps = {size: app_of(size, policy) for size in SIZES}
        quick = policy in ("round_robin", "random_choice", "two_choices", "peak_ewma", "first_available")
        few = max(200, number // (1 if quick else 50))
        found: dict[int, list[float]] = {size: [] for size in SIZES}
        for app in apps.values():
            choices(*app, few // 10)
        for _ in range(rounds):
            for size, app in apps.items():
                found[size].append(choices(*app, few))
        medians = {f"us_{size}": round(statistics.median(values), 2) for size, values in found.items()}
        small, large = medians.values()
        document[policy] = {**medians, "ratio": round(large / small, 2)}
    return document


def cost_of_requests(rounds: int, seconds: int) -> dict[str, dict[str, float]]:
    """CPU microseconds of the proxy's process a request, by policy and number of endpoints, rounds interleaved."""
    gateway = Path(__file__).parent / "gateway_process.py"
    document = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        search = Path(name) / "search"
        subprocess.run(["cc", "-O2", "-o", search, SEARCH], check=True)
        workers = [free_port() for _ in range(2)]
        for port in workers:
            stack.enter_context(running(1, [str(search), str(port)], port))
        for policy in ("round_robin", "two_choices", "peak_ewma"):
            found: dict[int, list[float]] = {size: [] for size in TRAFFIC_SIZES}
            with contextlib.ExitStack() as proxies:
                started = {}
                for size in TRAFFIC_SIZES:
                    port, ports = free_port(), [str(workers[slot % 2]) for slot in range(size)]
                    argv = [sys.executable, str(gateway), "--selection", policy, str(port), *ports]
                    started[size] = proxies.enter_context(running(0, argv, port)), port
                for pid, port in started.values():
                    measure(pid, port, 1)
                for _ in range(rounds):
                    for size, (pid, port) in started.items():
                        found[size].append(measure(pid, port, seconds)["cpu_us"])
            medians = {f"us_{size}": round(statistics.median(values), 2) for size, values in found.items()}
            small, large = medians.values()
            document[policy] = {**medians, "ratio": round(large / small, 2)}
    return document


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a choice among 10 and among 1,000 endpoints costs.")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--choices", type=int, default=20_000, help="in a round")
    parser.add_argument("--traffic", action="store_true", help="whole requests, by wrk, with 10 and 200 endpoints")
    parser.add_argument("--seconds", type=int, default=3, help="length of a round of traffic")
    given = parser.parse_args()
    if given.traffic:
        document = cost_of_requests(given.rounds, given.seconds)
    else:
        document = cost_of_choices(given.rounds, given.choices)
    if given.json:
        print(json.dumps(document))
        return
    for policy, figures in document.items():
        print(f"{policy:22}" + "  ".join(f"{name} {value:g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
