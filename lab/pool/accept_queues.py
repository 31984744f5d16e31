"""Connections and accept queues of workers' sockets, all in one question to the kernel: sock_diag(7), as `ss` asks.

A connection that the kernel has accepted and the process has not waits in the queue of its listening socket: whoever
only counts requests takes it for one that is being served. For a listening socket, `idiag_rqueue` is the length of that
queue and `idiag_wqueue` the most that fits.
"""

import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_HEADER = struct.Struct("=IHHII")
_ESTABLISHED, _CLOSE_WAIT, _LISTEN = 1, 8, 10
_STATES = 1 << _ESTABLISHED | 1 << _CLOSE_WAIT | 1 << _LISTEN
_ANYBODY = 0xFFFFFFFF
_UDIAG_SHOW_NAME, _UDIAG_SHOW_RQLEN = 0x1, 0x10
_UNIX_DIAG_NAME, _UNIX_DIAG_RQLEN = 0, 4
_INET_MESSAGE = struct.Struct("=BBBB2s2s16s16s4s8sIIIII")
"""struct inet_diag_msg: family, state, timer, retransmissions, both ports (network order), addresses, interface,
cookie, expires, receive queue, send queue, user, inode."""
_UNIX_MESSAGE = struct.Struct("=BBBBI8s")
"""struct unix_diag_msg: family, type, state, padding, inode, cookie; attributes follow."""
_ATTRIBUTE = struct.Struct("=HH")

Address = int | str
"""A TCP port of the loopback interface, or the path of a Unix socket."""


class AcceptQueue(msgspec.Struct, frozen=True):
    """A listening socket and what came of it."""

    established: int
    """Connections that were accepted and have not been closed by the accepting side."""
    waiting: int
    """Connections that wait to be accepted."""
    room: int
    """The most that may wait."""


def look(addresses: Iterable[Address]) -> dict[Address, AcceptQueue]:
    """The sockets that listen at `addresses`; those where nobody listens are missing.

    Takes about a microsecond for each socket of the machine: for people who look, not for a hot path. Raises `OSError`.
    """
    wanted = set(addresses)
    found: dict[Address, AcceptQueue] = {}
    if any(isinstance(address, int) for address in wanted):
        # A server that listens at :: takes connections of IPv4 as sockets of IPv6.
        found |= _counted(chain(_tcp(socket.AF_INET), _tcp(socket.AF_INET6)), wanted)
    if any(isinstance(address, str) for address in wanted):
        found |= _counted(_unix(), wanted)
    return found


def _counted(sockets: Iterator[tuple[Address, int, int, int, int]], wanted: set[Address]) -> dict[Address, AcceptQueue]:
    """Address, state, inode, queue and room of each socket become a queue a listener."""
    listening: dict[Address, tuple[int, int]] = {}
    accepted: Counter[Address] = Counter()
    for address, state, inode, waiting, room in sockets:
        if address not in wanted:
            continue
        if state == _LISTEN:
            listening[address] = (waiting, room)
        elif inode:  # else nobody has accepted it: it belongs to no file yet
            accepted[address] += 1
    return {address: AcceptQueue(accepted[address], *queue) for address, queue in listening.items()}


def _tcp(family: int) -> Iterator[tuple[Address, int, int, int, int]]:
    """struct inet_diag_req_v2 without an address: every TCP socket of the family in one of the states."""
    question = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _STATES)
    question += struct.pack("!HH16s16s", 0, 0, b"", b"") + struct.pack("=III", 0, _ANYBODY, _ANYBODY)
    for message in _dump(question):
        _, state, _, _, port, *_, queue, room, _, inode = _INET_MESSAGE.unpack_from(message)
        yield int.from_bytes(port, "big"), state, inode, queue, room


def _unix() -> Iterator[tuple[Address, int, int, int, int]]:
    """struct unix_diag_req: every Unix socket in one of the states, with its name and its queue."""
    show = _UDIAG_SHOW_NAME | _UDIAG_SHOW_RQLEN
    question = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, _STATES, 0, show, _ANYBODY, _ANYBODY)
    for message in _dump(question):
        _, _, state, _, inode, _ = _UNIX_MESSAGE.unpack_from(message)
        attributes = dict(_attributes(message[_UNIX_MESSAGE.size :]))
        path = attributes.get(_UNIX_DIAG_NAME, b"").rstrip(b"\0").decode("utf-8", "surrogateescape")
        queue, room = struct.unpack("=II", attributes.get(_UNIX_DIAG_RQLEN, bytes(8)))
        yield path, state, inode, queue, room


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """struct rtattr: length with head, kind, content, padded to four bytes."""
    place = 0
    while place + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        yield kind, data[place + _ATTRIBUTE.size : place + length]
        place += max(length + 3 & ~3, _ATTRIBUTE.size)


def _dump(question: bytes) -> Iterator[bytes]:
    """All messages of the kernel's answer, without their heads. Raises `OSError`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        size = _HEADER.size + len(question)
        kernel.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 0, 0) + question)
        while True:
            reply = kernel.recv(65536)
            place = 0
            while place < len(reply):
                length, kind, _, _, _ = _HEADER.unpack_from(reply, place)
                if kind == _NLMSG_DONE:
                    return
                content = reply[place + _HEADER.size : place + length]
                if kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", content)[0]
                    raise OSError(code, "the kernel refuses to tell of sockets")
                yield content
                place += length + 3 & ~3
