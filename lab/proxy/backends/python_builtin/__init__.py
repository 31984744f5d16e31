"""The proxy of the lab itself, on asyncio.Protocol and uvloop.

    downstream.py   a client's connection: finds requests in what arrives
    exchange.py     one request and its response, from admission to its one outcome; phase.py: how far it has come
    upload.py       a request's body on its way to a worker; retrial.py: what becomes of a request that a worker failed
    branch.py       routes: what each sends to each app, and whose turn it is
    crowd.py        too many clients; door.py: too many requests
    upstream.py     an app: its endpoints, and the queue before them
    balancer.py     which of them gets a request, as the policy says; asked.py: what policies see of it
    guard.py        which endpoints are well, and whether an app is asked at all
    checks.py       the proxy's own questions to endpoints
    endpoint.py     a worker's places, and the connections to it
    connection.py   a connection to a worker
    tunnel.py       what both become when client and worker switch protocols: WebSocket; logbook.py: what is told of it
    dialects/       what is spoken on it: HTTP, FastCGI or CGI
    cgi_process.py  a CGI program, which answers one request, as a connection
    files.py        the files of an app with a document root
    forwarding.py   what a head gains on its way
    listener.py     the listening socket, and who else holds the port
    tls.py          certificates; handshakes.py: clients on their way in; secure.py: TLS on their connections
    outbox.py       what is written in one turn of the loop leaves together
    recorder.py     what is remembered of a request that has ended, and what an answer says of itself
    pages.py        what the gateway shows to those who run it
    gateway.py      what all of these share
    proxy.py        `PythonBuiltinProxy`, which fulfils the contract with them

Where the time goes (`tests/bench/proxy.py`, keep-alive, 32 clients, two C workers, one core): some 25 us of CPU a
request, where nginx took 18 and an aiohttp proxy 174 in the same run; 28 us with everything on that explains. 12 to
14 us of it are the kernel's, as they are with nginx: two reads and two writes a request, and one epoll_pwait for ten
(`strace -c`). uvloop takes about 2: a read and a write by `recv` and `os.write` are no cheaper. The gateway's own
Python takes 6.7 us in a loop without sockets. It was 11.7. To know repeated field lines again saved 1.2, and an
expression that knows the simple answer 0.9 (lab/wire/http1.py); slots without a dictionary beside them 0.5
(timeouts.py); 11 calls of 46 that became statements in the place of their caller 0.7, for Python 3.11 needs 330
instructions to call and to return; the rest came of asking for the time once, looking durations up, arming deadlines in
place, putting back only what had happened, and one look for all that few apps have. A change is told from the noise by
`tests/bench/versions.py`, and its instructions by callgrind: 102,000 a request became 89,000.

Tried, and left out: answers that are held back until all of a turn's requests were begun save 0.35 us, and requests
that are, too, 0.15 more, for both have to be ordered with what ends a connection; a table of written milliseconds and
sending at once to clients saved nothing that could be told. What bursts of writes save stands in outbox.py, what it
costs that answers explain themselves in lab/proxy/explain.py.
"""

from lab.proxy.backends.python_builtin.proxy import PythonBuiltinProxy

__all__ = ["PythonBuiltinProxy"]
