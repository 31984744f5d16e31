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

Where the time goes (one core, `tests/bench/proxy.py`): system calls. A request costs one read and one write a side, no
task, no future, no timer, and heads are edited by cutting bytes out.
"""

from lab.proxy.backends.python_builtin.proxy import PythonBuiltinProxy

__all__ = ["PythonBuiltinProxy"]
