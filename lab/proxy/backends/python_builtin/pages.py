"""What the gateway itself shows to those who run it: `/-/metrics`, `/-/healthz` and the like, and `/pool-status`.

What they say, the engine knows; here is who may ask. By default that is this machine alone: the pages name workers,
paths and PIDs. A page that takes long to write is written in a thread, so that no request waits for it.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING

from lab.proxy import problems
from lab.proxy.manager import Page, Pages
from lab.proxy.problems import head
from lab.wire.http1 import RequestHead

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.exchange import Exchange
    from lab.proxy.backends.python_builtin.gateway import Gateway

_METHODS = (b"GET", b"HEAD")
_FIELDS = b"Cache-Control: no-store\r\n"


class PageRoute:
    """Where requests for pages lead."""

    def __init__(self, pages: Pages, gateway: "Gateway", threads: Executor) -> None:
        self._pages = pages
        self._gateway = gateway
        self._threads = threads

    def admit(self, exchange: "Exchange") -> None:
        """Answer with a page: 403 for strangers, 405 for every method but GET and HEAD, 404 where there is none."""
        request = exchange.request
        path, _, query = request.target.decode("latin-1").partition("?")
        downstream, networks = exchange.downstream, self._gateway.spec.settings.observe_from
        if not (may_look(downstream.peer, networks) and may_look(downstream.client, networks)):
            exchange.fail(problems.PAGE_ELSEWHERE)
        elif request.method not in _METHODS:
            exchange.fail(problems.PAGE_METHOD)
        else:
            self._show(exchange, self._pages(path, query))

    def _show(self, exchange: "Exchange", page: Page | Callable[[], Page] | None) -> None:
        if page is None:
            exchange.fail(problems.NO_PAGE)
        elif isinstance(page, Page):
            fields = _FIELDS + page.fields
            exchange.answer(head(page.status, page.content_type, len(page.body), fields), page.body)
        else:
            writing = asyncio.get_running_loop().run_in_executor(self._threads, page)
            writing.add_done_callback(partial(self._written, exchange, exchange.request))

    def _written(self, exchange: "Exchange", request: RequestHead, writing: "asyncio.Future[Page]") -> None:
        """The page is there. The client may have left meanwhile."""
        if exchange.waits_with(request):
            if writing.exception() is None:
                self._show(exchange, writing.result())
            else:
                exchange.fail(problems.PAGE_BROKEN)
        writing.result()  # what fails here by surprise is a defect, which the loop's exception handler keeps


def may_look(peer: str, networks: Iterable[str]) -> bool:
    """Whether a client at this address may see the pages: from this machine, or from one of `networks`.

    A socket that listens at `::` sees 127.0.0.1 as ::ffff:127.0.0.1, which is the same machine.
    """
    try:
        found = ipaddress.ip_address(peer)
    except ValueError:  # it hung up before it was looked at
        return False
    address = getattr(found, "ipv4_mapped", None) or found
    return address.is_loopback or any(address in ipaddress.ip_network(network, strict=False) for network in networks)
