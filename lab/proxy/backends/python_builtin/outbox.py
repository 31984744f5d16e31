"""Writes of one turn of the event loop, held back until everything that arrived in it has been read.

A write on loopback wakes the process at the other end, and waking one that sleeps costs more than the write. Written in
one burst, the first wakes the worker and the others find it awake; and pieces for the same peer leave together.
Measured with two workers and 32 clients, in turns: 38 to 40 us of CPU a request without this, 32 us with it.
"""

import asyncio


class Outbox:
    """What is to be sent, by transport. Nothing stays in it longer than until the loop has read what is there."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Transport, bytes] = {}

    def send(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send `data` soon, behind what was sent before."""
        waiting = self._waiting
        if not waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        waiting[transport] = waiting[transport] + data if transport in waiting else data

    def flush(self) -> None:
        """Send now. A transport that has closed meanwhile takes nothing."""
        waiting, self._waiting = self._waiting, {}
        for transport, data in waiting.items():
            if not transport.is_closing():
                transport.write(data)
