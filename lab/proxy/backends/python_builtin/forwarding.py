"""What a head gains on its way through the gateway (RFC 9110 7.6). What it loses, the parser has cut out already.

What a client says in X-Forwarded-* and Forwarded (RFC 7239) was dropped with it: anybody can write them, so only the
gateway's word counts. The exception are proxies in front that the lab's owner trusts: theirs is a `Claims`, which the
gateway's word is added to. Who the client is, is then the first address from the right that is not trusted: whatever
stands left of it, that client may have invented.
"""

import ipaddress
import math
import re
from collections.abc import Iterable
from email.utils import formatdate
from typing import Final

import msgspec

from lab.core.clock import Clock
from lab.proxy import problems
from lab.wire.headers import TOKEN, without
from lab.wire.http1 import RequestHead, is_host

VIA = b"Via: 1.1 cgilab\r\n"
"""In answers."""
_SECRET = (b"authorization", b"cookie", b"proxy-authorization")


class Claims(msgspec.Struct, frozen=True):
    """What a trusted proxy says of a request that it passed on. Empty: it says nothing of it."""

    addresses: bytes = b""
    """X-Forwarded-For: the client, then every proxy but the last."""
    proto: bytes = b""
    """`http` or `https`: what the client spoke."""
    host: bytes = b""
    """Which host it asked."""
    forwarded: bytes = b""
    """Forwarded: all of that in one field, one member a hop."""


NO_CLAIMS: Final = Claims()

_CLAIM = re.compile(rb"(?i)\n(x-forwarded-for|x-forwarded-proto|x-forwarded-host|forwarded):([^\r]*+)\r")
_HOP = re.compile(rb'(?i)(?:^|[;,])[ \t]*for=(?:"([^"]*)"|([^";, \t]*))')
_WITH_PORT = re.compile(r"\[([^]]*)\](?::[0-9]+)?|([0-9.]+):[0-9]+")


class Trust:
    """Whose claims are believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network, strict=False) for network in networks)

    def covers(self, address: str) -> bool:
        """Whether what comes from there is believed."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:  # it hung up before it was looked at
            return False
        known = getattr(found, "ipv4_mapped", None) or found
        return any(known in network for network in self._networks)

    def client(self, peer: str, claims: Claims) -> str:
        """The address of whoever asked, as far as it can be known: what a stranger claims is not followed."""
        client = peer
        for hop in reversed(_hops(claims)):
            if not self.covers(client):
                break
            match = _WITH_PORT.fullmatch(hop)
            try:
                client = str(ipaddress.ip_address(match[1] or match[2] if match else hop))
            except ValueError:  # `unknown`, or a name that hides an address (RFC 7239 6.3)
                break
        return client


def claims_of(head: bytes) -> Claims:
    """What a request's head says of its earlier hops. What is not well-formed is not passed on."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in _CLAIM.findall(head):
        found.setdefault(name.lower(), []).append(value.strip(b" \t"))
    proto, host = (b", ".join(found.get(name, ())) for name in (b"x-forwarded-proto", b"x-forwarded-host"))
    return Claims(
        b", ".join(found.get(b"x-forwarded-for", ())),
        proto.lower() if proto.lower() in (b"http", b"https") else b"",
        host if is_host(host) else b"",
        b", ".join(found.get(b"forwarded", ())),
    )


def _hops(claims: Claims) -> list[str]:
    if claims.addresses:
        hops = claims.addresses.split(b",")
    else:
        hops = [quoted or plain for quoted, plain in _HOP.findall(claims.forwarded)]
    return [hop.strip(b" \t").decode("latin-1") for hop in hops]


def in_a_loop(lines: bytes, pseudonym: bytes) -> bool:
    """Whether a request that holds the gateway's name was passed on by the gateway itself before (RFC 9110 7.6.3)."""
    return re.search(rb"(?i)\nvia:[^\r]*[ \t]%b[ \t,\r]" % re.escape(pseudonym), lines) is not None


class DateField:
    """When an answer came, for those that do not say it themselves (RFC 9110 6.6.1). Written once a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._line = b""
        self._until = -math.inf

    def line(self, now: float) -> bytes:
        """The field line of this second, which has the monotonic time `now` in it."""
        if now >= self._until:
            wall = self._clock.wall()
            self._line = b"Date: %b\r\n" % formatdate(wall, usegmt=True).encode()
            self._until = now + 1 - wall % 1
        return self._line


class Introduction(msgspec.Struct, frozen=True):
    """What the fields that a request's head ends with depend on: much the same for all requests of a connection."""

    host: bytes | None
    """None for a client that named none: it is given the gateway's."""
    modern: bool
    """The client speaks HTTP/1.1, not 1.0."""
    chunked: bool
    """The body leaves in chunks."""
    claims: Claims

    def fields(self, peer: str, proto: bytes, authority: bytes, pseudonym: bytes) -> bytes:
        """The fields, and the empty line. `peer` speaks `proto` to the gateway, which is reached at `authority`."""
        host, claims = self.host or authority, self.claims
        hop = b"for=%b;host=%b;proto=%b" % (_node(peer), _quoted(host), proto)
        return b"".join(
            (
                b"" if self.host else b"Host: %b\r\n" % authority,
                b"Via: 1.%d %b\r\n" % (self.modern, pseudonym),
                b"X-Forwarded-For: %b\r\n" % _behind(claims.addresses, peer.encode()),
                b"X-Forwarded-Proto: %b\r\n" % (claims.proto or proto),
                b"X-Forwarded-Host: %b\r\n" % (claims.host or host),
                b"Forwarded: %b\r\n" % _behind(claims.forwarded, hop),
                b"Transfer-Encoding: chunked\r\n" if self.chunked else b"",
                b"\r\n",
            )
        )


def _behind(before: bytes, hop: bytes) -> bytes:
    return b"%b, %b" % (before, hop) if before else hop


def _node(address: str) -> bytes:
    """An address as Forwarded has it: with brackets and quotes where it holds colons (RFC 7239 6)."""
    return b'"[%b]"' % address.encode() if ":" in address else address.encode()


def _quoted(host: bytes) -> bytes:
    """A host as a parameter's value: in quotes unless it is a token."""
    return host if re.fullmatch(TOKEN, host) else b'"%b"' % host


def last_hop(request: RequestHead) -> tuple[bytes, bytes]:
    """Head, without its empty line, and body of the answer to TRACE or OPTIONS that may go no further.

    TRACE shows what got here, but for what says who the client is (RFC 9110 9.3.8).
    """
    if request.method != b"TRACE":
        return problems.OPTIONS, b""
    body = without(request.lines, _SECRET) + b"\r\n"
    return problems.head(200, "message/http", len(body)), body


def _response_end(keep: bool, modern: bool, chunked: bool) -> bytes:
    """HTTP/1.1 stays open unless told to close; HTTP/1.0 closes unless told to stay."""
    connection = (b"" if modern else b"Connection: keep-alive\r\n") if keep else b"Connection: close\r\n"
    return VIA + connection + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")


_BOTH = (False, True)
RESPONSE_END = {
    (keep, modern, chunked): _response_end(keep, modern, chunked)
    for keep in _BOTH
    for modern in _BOTH
    for chunked in _BOTH
}
"""The fields that end a response's head, and its empty line: by keep-alive, HTTP/1.1 and chunked."""
USUAL_END: Final = RESPONSE_END[True, True, False]
"""Of nearly all, which are not looked for in a table."""
