"""The request that an endpoint is chosen for, as selection policies see it.

There is one of these for each app, which looks at another exchange with every choice: what a policy does not ask for is
never looked up, so a policy that asks for nothing pays nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab.wire.headers import value

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.endpoint import EndpointState
    from lab.proxy.backends.python_builtin.exchange import Exchange


class Asked:
    """The contract `lab.proxy.selection.Request`."""

    exchange: "Exchange"
    everyone: "Sequence[EndpointState]" = ()

    @property
    def method(self) -> str:
        return self.exchange.request.method.decode()

    @property
    def path(self) -> str:
        return self.exchange.request.target.partition(b"?")[0].decode("latin-1")

    @property
    def client(self) -> str:
        return self.exchange.downstream.client

    def offers(self, endpoint: "EndpointState") -> bool:
        return endpoint.position >= 0 and endpoint not in self.exchange.tried

    def header(self, name: str) -> str | None:
        found = value(self.exchange.request.lines, name.encode("latin-1", "replace"))
        return None if found is None else found.decode("latin-1")

    def cookie(self, name: str) -> str | None:
        pairs = (pair.strip().partition("=") for pair in (self.header("cookie") or "").split(";"))
        return next((value.strip('"') for found, _, value in pairs if found == name), None)

    def set_cookie(self, cookie: str | None) -> None:
        self.exchange.added = b"" if cookie is None else b"Set-Cookie: %b\r\n" % cookie.encode("latin-1")
