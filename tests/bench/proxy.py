"""How the built-in proxy compares with nginx: the same two C workers, 32 keep-alive connections, one core a proxy.

    tests/bench/proxy.py [--json] [--seconds 4] [--rounds 5] [--on]

Rounds are interleaved, so that what else the machine does hits everybody, and compared within each: in a round all take
turns of one second, in a new order each time, for a machine may be slow for seconds on end. The proxy has core 0; wrk
and the workers have core 1. CPU is that of the proxy's process alone, from /proc. nginx runs one worker process with
keep-alive upstreams and no access log. The built-in proxy runs with all it has: strict parsing, queue, accounting,
timeouts. With `--on` it runs a second time beside itself, with everything on by which it explains itself: X-Request-Id,
Proxy-Status and Server-Timing on every answer, and of a hundred requests the trace of one and a line of JSON.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from running import cpu_seconds

from lab.pool.sockdiag import free_port

HERE = Path(__file__).resolve().parent
SEARCH = HERE.parent.parent / "samples" / "search" / "c" / "search.c"
PATH = "/api/search?q=test"

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  upstream workers {{ {servers} keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection "";
      client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}
}}
"""


def pinned(core: int, argv: list[str]) -> list[str]:
    """A command that stays on one core; on a machine with fewer of them, on one that there is."""
    return ["taskset", "-c", str(core % (os.cpu_count() or 1)), *argv]


@contextlib.contextmanager
def running(core: int, argv: list[str], port: int) -> Iterator[int]:
    """A process pinned to a core, from when it listens; its PID."""
    command = pinned(core, argv)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(argv)} ended at once: has somebody else taken port {port}?")
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def two_workers(folder: Path) -> Iterator[list[int]]:
    """The ports of two C workers, which share core 1; their program is built in `folder`."""
    subprocess.run(["cc", "-O2", "-o", folder / "search", SEARCH], check=True)
    ports = [free_port() for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(running(1, [str(folder / "search"), str(port)], port))
        yield ports


def contenders(folder: Path, workers: list[int], on: bool) -> dict[str, tuple[list[str], int]]:
    """What is compared: name, command and port."""
    ports = [str(port) for port in workers]
    ours, explaining, nginx, other = free_port(), free_port(), free_port(), free_port()
    servers = " ".join(f"server 127.0.0.1:{port};" for port in ports)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, servers=servers, port=nginx))
    found = {"cgilab": ([sys.executable, str(HERE / "gateway_process.py"), str(ours), *ports], ours)}
    if on:
        argv = [sys.executable, str(HERE / "gateway_process.py"), "--on", str(explaining), *ports]
        found["all on"] = (argv, explaining)
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    if Path(binary).exists():
        found["nginx"] = ([binary, "-p", str(folder), "-c", str(config)], nginx)
    if importlib.util.find_spec("aiohttp"):
        found["aiohttp"] = ([sys.executable, str(HERE / "aiohttp_process.py"), str(other), *ports], other)
    return found


def measure(pid: int, port: int, seconds: int) -> dict[str, float]:
    """One run of wrk against one proxy. wrk knows whole seconds only."""
    before = cpu_seconds(pid)
    command = [
        "taskset",
        "-c",
        "1",
        "wrk",
        "-t1",
        "-c32",
        f"-d{seconds}s",
        "--latency",
        f"http://127.0.0.1:{port}{PATH}",
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    used = cpu_seconds(pid) - before
    if "Non-2xx" in text or "Socket errors" in text:
        print(f"This round had errors: what it measured says little.\n{text}", file=sys.stderr)
    requests = int(re.search(r"(\d+) requests in", text)[1])
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    p99 = float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
    return {
        "rps": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
        "cpu_us": used / requests * 1e6,
        "p99_ms": p99,
    }


def round_of(proxies: dict[str, tuple[int, int]], seconds: int) -> dict[str, dict[str, float]]:
    """So many seconds of each: the means of its turns, a request's CPU weighed by how many there were."""
    turns: dict[str, list[dict[str, float]]] = {proxy: [] for proxy in proxies}
    for _ in range(seconds):
        for proxy in random.sample(sorted(proxies), len(proxies)):
            turns[proxy].append(measure(*proxies[proxy], 1))
    return {
        proxy: {
            "rps": statistics.fmean(turn["rps"] for turn in its),
            "cpu_us": statistics.fmean([turn["cpu_us"] for turn in its], [turn["rps"] for turn in its]),
            "p99_ms": statistics.fmean(turn["p99_ms"] for turn in its),
        }
        for proxy, its in turns.items()
    }


def compare(seconds: int, rounds: int, on: bool) -> dict[str, list[dict[str, float]]]:
    """Every proxy's rounds, interleaved."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        workers = stack.enter_context(two_workers(folder))
        proxies = {
            proxy: (stack.enter_context(running(0, argv, port)), port)
            for proxy, (argv, port) in contenders(folder, workers, on).items()
        }
        results: dict[str, list[dict[str, float]]] = {proxy: [] for proxy in proxies}
        for pid, port in proxies.values():
            measure(pid, port, 1)
        for _ in range(rounds):
            for proxy, measured in round_of(proxies, seconds).items():
                results[proxy].append(measured)
        return results


def summary(results: dict[str, list[dict[str, float]]], rounds: int) -> dict[str, object]:
    """Medians with their spread, and the ratios that matter: medians of those of each round, for a machine drifts."""
    proxies = {}
    for proxy, measured in results.items():
        figures = {key: [one[key] for one in measured] for key in ("rps", "cpu_us", "p99_ms")}
        proxies[proxy] = {key: round(statistics.median(values), 2) for key, values in figures.items()}
        proxies[proxy]["rps_spread"] = [round(min(figures["rps"])), round(max(figures["rps"]))]
    document: dict[str, object] = {"rounds": rounds, "proxies": proxies}
    ours, everything = results["cgilab"], results.get("all on")
    if everything:
        document["us_for_explaining"] = _median(
            one["cpu_us"] - other["cpu_us"] for one, other in _pairs(everything, ours)
        )
        document["ratio_all_on"] = _ratio(everything, ours, "rps")
    if "nginx" in proxies:
        document["ratio_to_nginx"] = _ratio(ours, results["nginx"], "rps")
        document["cpu_ratio_to_nginx"] = _ratio(ours, results["nginx"], "cpu_us")
        if everything:
            document["ratio_all_on_to_nginx"] = _ratio(everything, results["nginx"], "rps")
            document["cpu_ratio_all_on_to_nginx"] = _ratio(everything, results["nginx"], "cpu_us")
    if "aiohttp" in proxies:
        document["ratio_to_next_python"] = _ratio(ours, results["aiohttp"], "rps")
    return document


Rounds = list[dict[str, float]]


def _pairs(ours: Rounds, theirs: Rounds) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    return zip(ours, theirs, strict=True)


def _ratio(ours: Rounds, theirs: Rounds, key: str) -> float:
    return _median(one[key] / other[key] for one, other in _pairs(ours, theirs))


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 3)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare the built-in proxy with nginx and an aiohttp proxy.")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--seconds", type=int, default=4, help="of each proxy in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--on", action="store_true", help="also with everything on by which it explains itself")
    given = parser.parse_args()
    document = summary(compare(given.seconds, given.rounds, given.on), given.rounds)
    if given.json:
        print(json.dumps(document))
        return
    for proxy, figures in document["proxies"].items():
        low, high = figures["rps_spread"]
        print(f"{proxy:8} {figures['rps']:9.0f} requests/s ({low} to {high})", end="")
        print(f"  {figures['cpu_us']:6.1f} us CPU a request  p99 {figures['p99_ms']:.2f} ms")
    for name, value in document.items():
        if "ratio" in name or "us_for" in name:
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
