"""The built-in proxy in a process of its own, for benchmarks.

gateway_process.py [--selection POLICY] LISTEN_PORT WORKER_PORT...
"""

import argparse
import asyncio

import uvloop

from lab.core.clock import SystemClock
from lab.core.events import EventRing
from lab.core.model import Endpoint, ListenerSpec, WorkerId
from lab.proxy.backends.python_builtin import PythonBuiltinProxy
from lab.proxy.manager import ProxySpec, UpstreamSpec

CONCURRENCY = 16
"""Places per worker: two workers and 32 connections, as nginx fills them too."""


async def serve(port: int, workers: list[int], selection: str) -> None:
    """Relay `/` to the workers until killed."""
    clock = SystemClock()
    proxy = PythonBuiltinProxy(clock, EventRing(clock))
    upstream = UpstreamSpec(app="search", route="/", selection=selection)
    await proxy.start(ProxySpec(listener=ListenerSpec(port=port), upstreams=(upstream,)))
    for slot, worker in enumerate(workers):
        identity = WorkerId("search", slot, 1)
        proxy.add(Endpoint("search", identity, "127.0.0.1", worker, concurrency=CONCURRENCY))
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--selection", default="round_robin")
    parser.add_argument("ports", type=int, nargs="+")
    given = parser.parse_args()
    uvloop.run(serve(given.ports[0], given.ports[1:], given.selection))
