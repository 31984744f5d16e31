"""How is a process beside the pool? Asked as its `health` says: by HTTP, TCP, a command, a file, or not at all.

A check never blocks the loop, takes no longer than its `timeout`, and leaves nothing behind: a command that is not
over by then is killed with everything it started. No process is blamed for what this loop was late for: an answer that
is there when patience ends counts.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from lab.core.errors import LabError
from lab.core.model import HealthMethod, ServiceSpec
from lab.core.rules import host_and_port, http_target
from lab.engine.service import ending
from lab.pool.manager import PoolManager
from lab.wire.question import Get

_MOST = 64 * 1024
_TURNS = 10
"""Of the loop, in which an answer that is there when patience ends is read: uvloop calls its timers before it looks at
its sockets, and what was read passes through several hands."""
_TOLD = ("/bin/sh", "-c", 'exec "$@" >&{report_fd} 2>&1', "sh")
"""Its output comes to the lab instead of a log, which a check every half second would fill."""


async def check(spec: ServiceSpec, pool: PoolManager) -> str:
    """What is wrong with it, as the end of a sentence about it such as `does not accept connections`; empty if well."""
    health = spec.health
    asking = asyncio.get_running_loop().create_task(_METHODS[health.method](spec, pool))
    try:
        await asyncio.wait((asking,), timeout=health.timeout)
        for _ in range(_TURNS):
            if asking.done():
                return asking.result()
            await asyncio.sleep(0)
    finally:
        asking.cancel()
    return f"did not answer within {health.timeout:g} s ({_asked(spec)})"


async def _process(spec: ServiceSpec, pool: PoolManager) -> str:
    return ""  # it runs: else nobody would ask


async def _tcp(spec: ServiceSpec, pool: PoolManager) -> str:
    host, port = host_and_port(spec.health.address)
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return f"does not accept connections at {spec.health.address} ({error.strerror or error})"
    writer.close()
    return ""


async def _http(spec: ServiceSpec, pool: PoolManager) -> str:
    host, port, path = http_target(spec.health.url)
    question = Get(path, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    answer = b""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return f"does not accept connections at {host}:{port} ({error.strerror or error})"
    with contextlib.closing(writer), contextlib.suppress(ConnectionError):  # a reset: what came before it counts
        writer.write(question.words)
        while len(answer) < _MOST and not question.is_whole(answer) and (chunk := await reader.read(_MOST)):
            answer += chunk
    return question.wrong(answer)


async def _command(spec: ServiceSpec, pool: PoolManager) -> str:
    said: list[str] = []
    command = spec.health.command
    try:
        process = await pool.run(spec.name, (*_TOLD, *command), spec.env, spec.folder or None, said.append)
    except (LabError, OSError) as error:
        return f"cannot be asked: {str(error).rstrip('.')}"
    try:
        status = await process.wait()
    finally:
        process.signal(signal.SIGKILL, group=True)
    if status == 0:
        return ""
    return f"is not well: {command[0]} ended with {ending(status)}" + (f" ({said[-1]})" if said else "")


async def _file(spec: ServiceSpec, pool: PoolManager) -> str:
    there = await asyncio.to_thread(Path(spec.health.path).exists)
    return "" if there else f"has not made the file {spec.health.path}"


_METHODS: dict[HealthMethod, Callable[[ServiceSpec, PoolManager], Coroutine[Any, Any, str]]] = {
    HealthMethod.PROCESS: _process,
    HealthMethod.TCP: _tcp,
    HealthMethod.HTTP: _http,
    HealthMethod.COMMAND: _command,
    HealthMethod.FILE: _file,
}


def _asked(spec: ServiceSpec) -> str:
    """What it is asked by, in a word or two."""
    health = spec.health
    return health.address or health.url or health.path or " ".join(health.command)
