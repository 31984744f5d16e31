"""The built-in proxy in a process of its own, for benchmarks: `gateway_process.py LISTEN_PORT WORKER_PORT...`."""

import asyncio
import sys

import uvloop

from lab.core.clock import SystemClock
from lab.core.events import EventRing
from lab.core.model import Endpoint, ListenerSpec, WorkerId
from lab.proxy.backends.python_builtin import PythonBuiltinProxy
from lab.proxy.manager import ProxySpec, UpstreamSpec

CONCURRENCY = 16
"""Places per worker: two workers and 32 connections, as nginx fills them too."""


async def serve(port: int, workers: list[int]) -> None:
    """Relay `/` to the workers until killed."""
    clock = SystemClock()
    proxy = PythonBuiltinProxy(clock, EventRing(clock))
    upstream = UpstreamSpec(app="search", route="/")
    await proxy.start(ProxySpec(listener=ListenerSpec(port=port), upstreams=(upstream,)))
    for slot, worker in enumerate(workers):
        identity = WorkerId("search", slot, 1)
        proxy.add(Endpoint("search", identity, "127.0.0.1", worker, concurrency=CONCURRENCY))
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
