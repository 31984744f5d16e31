"""The reverse proxy that most people would write with aiohttp: `aiohttp_process.py LISTEN_PORT WORKER_PORT...`."""

import itertools
import sys

import aiohttp
from aiohttp import web


def application(workers: list[str]) -> web.Application:
    """Relay every request to the workers in turn."""
    turns = itertools.cycle(workers)

    async def session(app: web.Application):
        async with aiohttp.ClientSession(auto_decompress=False) as opened:
            app["session"] = opened
            yield

    async def relay(request: web.Request) -> web.Response:
        url = f"http://127.0.0.1:{next(turns)}{request.path_qs}"
        async with request.app["session"].request(request.method, url, data=await request.read()) as answer:
            kind = {"Content-Type": answer.headers.get("Content-Type", "application/octet-stream")}
            return web.Response(status=answer.status, body=await answer.read(), headers=kind)

    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", relay)
    return app


if __name__ == "__main__":
    web.run_app(application(sys.argv[2:]), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
