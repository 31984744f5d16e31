"""What a program is told of a request, and of who serves it: RFC 3875's meta-variables, taken from an exchange.

CGI puts them into the environment, FastCGI into records. Those of the server and of the client's connection are apart,
for they are the same for many requests.
"""

from typing import TYPE_CHECKING

from lab.proxy import deadlines
from lab.proxy.timeouts import NEVER
from lab.wire import cgi

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.exchange import Exchange


def of_request(exchange: "Exchange", *, authorized: bool) -> cgi.Variables:
    """Those of a request whose script is known. `authorized`: with its Authorization, which an environment shows to
    everybody on the machine. Raises `BadMessageError` for what cannot be told."""
    assert exchange.script is not None
    found = cgi.of_request(exchange.request, exchange.script, authorized=authorized)
    if exchange.until < NEVER:
        found.append((deadlines.VARIABLE, deadlines.left_ms(exchange.until, exchange.gateway.now())))
    if exchange.name:
        found.append((b"HTTP_X_REQUEST_ID", exchange.identity.encode()))
    return found


def connection(exchange: "Exchange") -> tuple[bytes, tuple[str, int | None], bool]:
    """Host, client and whether it speaks HTTP/1.1. A client that named no host meant the listener's."""
    client, fields = exchange.downstream, exchange.request.fields
    address = client.address if client.client == client.peer else (client.client, None)
    return fields.host or exchange.gateway.authority, address, fields.modern


def server(exchange: "Exchange") -> tuple[int, bytes, bool]:
    """The listener's port, the document root of the script (empty when there is none), and whether TLS is spoken."""
    root = exchange.script.root if exchange.script is not None else b""
    return exchange.gateway.port, root, exchange.downstream.secure
