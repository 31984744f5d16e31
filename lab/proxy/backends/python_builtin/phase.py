"""How far an exchange has come.

IDLE -> (COLLECTING) -> QUEUED -> CONNECTING -> WAITING -> RELAYING -> IDLE
             |            |           |            |           |
             +------------+-----------+------------+-----------+-> IDLE: failed, or the client left
"""

from enum import Enum, auto


class Phase(Enum):
    """How far an exchange has come."""

    IDLE = auto()
    ACCEPTED = auto()
    """Its head is here; nobody has charge of it yet."""
    COLLECTING = auto()
    """Its body comes in chunks, and has to be here before anybody can be told how long it is."""
    QUEUED = auto()
    """It waits for a place."""
    CONNECTING = auto()
    """It has a place and waits for a connection."""
    WAITING = auto()
    """The request is at the worker, or on its way; no byte of the final response has gone to the client."""
    RELAYING = auto()
    """The response goes to the client. From here on a failure can only break it off."""


IDLE, ACCEPTED, COLLECTING, QUEUED, CONNECTING, WAITING, RELAYING = Phase
"""By name, because on Python 3.11 each look-up in an enum costs as much as a call."""
