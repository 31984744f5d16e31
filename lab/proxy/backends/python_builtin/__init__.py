"""The proxy of the lab itself, on asyncio.Protocol and uvloop.

    downstream.py   a client's connection: finds requests in what arrives
    exchange.py     one request and its response, from admission to its one outcome
    upstream.py     an app: its endpoints, their places, the queue before them
    connection.py   a connection to a worker
    forwarding.py   what a head gains on its way
    listener.py     the listening socket, and who else holds the port
    outbox.py       what is written in one turn of the loop leaves together
    gateway.py      what all of these share
    proxy.py        `PythonBuiltinProxy`, which fulfils the contract with them

Where the time goes (`tests/bench/proxy.py`, keep-alive, 32 clients, two C workers): of about 30 us of CPU a request, 17
are system calls (one read and one write a side), 4 the heads, 9 everything else; nginx takes 16 to 20, an aiohttp
proxy 150. What was tried: writes in one burst per turn of the loop, 43 -> 33 us (outbox.py); what the gateway adds
made once a connection, routes without a generator, fewer clock readings, enum members by name, together about 3 us;
another congestion control than the machine's BBR on loopback: nothing, so it was left out.
"""

from lab.proxy.backends.python_builtin.proxy import PythonBuiltinProxy

__all__ = ["PythonBuiltinProxy"]
