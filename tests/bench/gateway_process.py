"""The built-in proxy in a process of its own, for benchmarks.

gateway_process.py [--on] [--tls] [--selection POLICY] LISTEN_PORT WORKER_PORT...

`--on` switches on everything by which the proxy explains itself, `--tls` has its listener speak TLS.
"""

import argparse
import asyncio
import os
import tempfile
from pathlib import Path

import uvloop

from lab.core.clock import SystemClock
from lab.core.events import EventRing
from lab.core.model import AccessLogForm, Endpoint, Explain, ListenerSpec, ProxySettings, Tls, WorkerId
from lab.proxy.backends.python_builtin import PythonBuiltinProxy
from lab.proxy.manager import ProxySpec, UpstreamSpec

CONCURRENCY = 16
"""Places per worker: two workers and 32 connections, as nginx fills them too."""

EXPLAINING = ProxySettings(
    explain=Explain.ALL, slow=0.5, trace_sample=100, access_log=AccessLogForm.JSON, access_log_sample=100
)


async def serve(
    listener: ListenerSpec, workers: list[int], selection: str, settings: ProxySettings, logs: Path
) -> None:
    """Relay `/` to the workers until killed."""
    clock = SystemClock()
    proxy = PythonBuiltinProxy(clock, EventRing(clock), logs=logs)
    upstream = UpstreamSpec(app="search", route="/", selection=selection)
    await proxy.start(ProxySpec(listener=listener, upstreams=(upstream,), settings=settings))
    for slot, worker in enumerate(workers):
        identity = WorkerId("search", slot, 1)
        proxy.add(Endpoint("search", identity, "127.0.0.1", worker, concurrency=CONCURRENCY))
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", action="store_true")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--selection", default="round_robin")
    parser.add_argument("ports", type=int, nargs="+")
    given = parser.parse_args()
    settings = EXPLAINING if given.on else ProxySettings()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder  # where certificates are made
        listener = ListenerSpec(port=given.ports[0], tls=Tls.SELF_SIGNED if given.tls else Tls.OFF)
        uvloop.run(serve(listener, given.ports[1:], given.selection, settings, Path(folder)))
