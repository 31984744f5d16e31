"""Clients of a TLS listener on their way in: from the connection to the end of the handshake.

uvloop could do this, but hands a client over only when its handshake is done: whoever stays in the middle of one would
hold memory and a descriptor that no limit counts, with a timer of its own, and why it failed would be known to nobody.
Here one deadline covers all of it, that of a request's head, so that to dawdle pays no more than it does without TLS;
`proxy.limits.connections` counts who is in the middle; and how handshakes fail is counted, by cause.

A client that speaks plain HTTP to a port of TLS is told so: its first byte tells.
"""

import asyncio
import ssl
from collections import Counter
from itertools import islice
from typing import Final, cast

from lab.core.events import EventKind, EventRing
from lab.proxy.backends.python_builtin.crowd import SURPLUS
from lab.proxy.backends.python_builtin.downstream import Downstream, Plaintext
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.backends.python_builtin.secure import SecureTransport
from lab.proxy.seldom import Seldom
from lab.proxy.timeouts import Timed

LEFT: Final = "client left"
LATE: Final = "too slow"
CROWDED: Final = "too many"
REFUSED: Final = "certificate refused"
FAILED: Final = "not understood"
"""Rubbish, or no version or cipher in common."""

_HANDSHAKE: Final = 0x16
"""The first byte that a TLS client says: the type of a record that carries a handshake (RFC 8446 5.1)."""

_DISTRUST: Final = ("UNKNOWN_CA", "CERTIFICATE")
"""Parts of OpenSSL's names for alerts by which a client says that it does not trust whom it talks to (RFC 8446 6.2)."""


class Handshakes:
    """All that are under way at one listener, and how many failed."""

    def __init__(self, tls: ssl.SSLContext, certificate: str | None, gateway: Gateway, events: EventRing) -> None:
        """`certificate`: the file that clients may trust, where there is one."""
        self.tls = tls
        self.gateway = gateway
        self.failed: Counter[str] = Counter()
        self._under_way: dict[Entrance, None] = {}
        """Who began first comes first."""
        self._certificate = certificate
        self._events = events
        self._seldom = Seldom()

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._under_way)

    def entrance(self) -> "Entrance":
        """For the next client, as `create_server` wants a protocol."""
        return Entrance(self)

    def began(self, entrance: "Entrance") -> None:
        """A client has connected. Where there are too many, whoever has been at it for longest has to go."""
        gateway = self.gateway
        self._under_way[entrance] = None
        gateway.wheel.arm(entrance, gateway.now() + gateway.timeouts.request_head)
        if (crowd := gateway.crowd) is not None:
            surplus = len(self._under_way) + len(gateway.downstreams) - crowd.limit - SURPLUS
            if surplus > 0:
                others = (one for one in self._under_way if not one.own and one is not entrance)
                for oldest in list(islice(others, surplus)):
                    oldest.give_up(CROWDED)

    def ended(self, entrance: "Entrance", cause: str | None = None, reason: str = "") -> None:
        """It is over, and has failed if there is a `cause`; `reason` is OpenSSL's. To be told twice changes nothing."""
        if entrance not in self._under_way:
            return
        del self._under_way[entrance]
        self.gateway.wheel.forget(entrance)
        if cause is not None:
            self.failed[cause] += 1
        if cause in (REFUSED, FAILED) and (more := self._seldom.more(self.gateway.now())) is not None:
            self._events.emit(EventKind.NOTE, self._told(entrance.peer, cause, reason) + more)

    def close(self) -> None:
        """The proxy accepts nobody any more: hang up on all of them."""
        for entrance in list(self._under_way):
            entrance.give_up(None)

    def _told(self, peer: str, cause: str, reason: str) -> str:
        why = reason.replace("_", " ").lower()
        if cause != REFUSED:
            return f"A TLS handshake with {peer} failed: {why}."
        remedy = f" Tell it to trust {self._certificate}, as with curl --cacert." if self._certificate else ""
        return f"A client at {peer} does not trust the lab's certificate ({why}).{remedy}"


class Entrance(asyncio.Protocol, Timed):
    """One client's connection until it is known whether it speaks TLS. Its deadline is the handshake's."""

    def __init__(self, handshakes: Handshakes) -> None:
        super().__init__()
        self.peer = ""
        self.own = False
        """The lab itself is the client."""
        self._handshakes = handshakes
        self._transport: asyncio.Transport
        self._secure: SecureTransport | None = None
        """None until the client has said its first byte: until then it costs no more than its socket."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("peername", ("", 0))[:2]
        self.peer, self.own = address[0], address in self._handshakes.gateway.own_addresses
        self._handshakes.began(self)

    def data_received(self, data: bytes) -> None:
        if self._secure is None:
            if data[0] != _HANDSHAKE:
                self._tell(data)
                return
            self._secure = SecureTransport(self._transport, self._handshakes.tls)
        try:
            done = self._secure.shake(data)
        except ssl.SSLError as error:
            reason = error.reason or "no reason given"
            distrusted = "ALERT" in reason and any(part in reason for part in _DISTRUST)
            self._handshakes.ended(self, REFUSED if distrusted else FAILED, reason)
            self._transport.close()  # behind the alert that says why
            return
        if done:
            self._handshakes.ended(self)
            self._secure.begin(Downstream(self._handshakes.gateway))

    def eof_received(self) -> None:
        self._handshakes.ended(self, LEFT)

    def connection_lost(self, exc: Exception | None) -> None:
        self._handshakes.ended(self, LEFT)

    def expired(self) -> None:
        self.give_up(LATE)

    def give_up(self, cause: str | None) -> None:
        """Hang up on the client."""
        self._handshakes.ended(self, cause)
        self._transport.abort()

    def _tell(self, data: bytes) -> None:
        """What it speaks is no TLS."""
        self._handshakes.ended(self)
        told = Plaintext(self._handshakes.gateway)
        self._transport.set_protocol(told)
        told.connection_made(self._transport)
        told.data_received(data)
