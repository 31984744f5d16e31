"""One request and its response, from admission to its one outcome. There is one per client connection, used again.

It passes through the phases of phase.py. Its body, if it has one, is in the hands of an `Upload`. What a worker speaks,
its connection's dialect knows; nothing here depends on it. Whatever ends an exchange first gives up what it holds (its
turn in the queue, its connection, its place at the worker), then counts, then hands the client's connection back. So a
request has exactly one outcome, and at most one response.
"""

import asyncio
from typing import TYPE_CHECKING

from lab.proxy import deadlines, problems
from lab.proxy.accounting import ABANDONED, ANSWERED, FAILED, Counters, Outcome, Tally, count
from lab.proxy.backends.python_builtin import tunnel
from lab.proxy.backends.python_builtin.branch import NOWHERE
from lab.proxy.backends.python_builtin.connection import WorkerConnection
from lab.proxy.backends.python_builtin.dialects import Answer
from lab.proxy.backends.python_builtin.forwarding import RESPONSE_END, USUAL_END, VIA, in_a_loop, last_hop
from lab.proxy.backends.python_builtin.gateway import Gateway
from lab.proxy.backends.python_builtin.phase import (
    ACCEPTED,
    COLLECTING,
    CONNECTING,
    IDLE,
    QUEUED,
    RELAYING,
    WAITING,
)
from lab.proxy.backends.python_builtin.retrial import Retrial, was_stale
from lab.proxy.backends.python_builtin.upload import Upload
from lab.proxy.breaker import Breaker
from lab.proxy.explain import REQUEST_ID
from lab.proxy.problems import Problem
from lab.proxy.retries import Attempt
from lab.proxy.timeouts import NEVER, Timed
from lab.wire import cgi
from lab.wire.bodies import LAST_CHUNK, Body, chunk
from lab.wire.headers import listed, without
from lab.wire.http1 import CHUNKED, UNTIL_CLOSE, BadMessageError, RequestHead, ResponseHead, retargeted

if TYPE_CHECKING:
    from lab.proxy.backends.python_builtin.downstream import Downstream
    from lab.proxy.backends.python_builtin.endpoint import EndpointState
    from lab.proxy.backends.python_builtin.upstream import Upstream

_INTERIM_LIMIT = 32
"""Interim responses before the final one. Each costs work and memory, and a broken worker may never stop."""

_REDIRECT_LIMIT = 5
"""Local redirects of one request: two scripts that redirect to each other would never end (RFC 3875 6.2.2)."""


class Exchange(Timed):
    """The life of one request. Its deadline is that of its phase."""

    __slots__ = (
        "_chunks",
        "_connecting",
        "_download",
        "_endless",
        "_eventful",
        "_interims",
        "_keep",
        "_patience",
        "_redirects",
        "_reusable",
        "_since",
        "added",
        "asked",
        "connecting",
        "connection",
        "counters",
        "downstream",
        "endpoint",
        "first",
        "gateway",
        "home",
        "latency",
        "name",
        "noted",
        "number",
        "original",
        "phase",
        "probes",
        "problem",
        "queued",
        "request",
        "retrial",
        "route",
        "script",
        "sent",
        "started",
        "status",
        "until",
        "upload",
        "upstream",
    )

    counters: Counters
    """Everybody's, or those of the lab's own requests."""
    request: RequestHead
    script: cgi.Script | None
    """What answers it, if that is a program; None while nobody has looked."""
    upstream: "Upstream"
    endpoint: "EndpointState"
    connection: WorkerConnection
    _download: Body
    _connecting: asyncio.Task[None]

    def __init__(self, downstream: "Downstream", gateway: Gateway) -> None:
        super().__init__()
        self.downstream = downstream
        self.phase = IDLE
        self.upload: Upload | None = None
        """The request's body; None for most, which have none."""
        self.retrial: Retrial | None = None
        """What was tried before, and failed; None for most, which have not failed."""
        self.probes: Breaker | None = None
        """The half-open breaker that waits for what becomes of it."""
        self.route = NOWHERE
        """The way that it takes, once it was found."""
        self.original = b""
        """The target that the client sent, if the request goes on with another one; empty for nearly all."""
        self.latency: Tally | None = None
        """Where it is counted, once an upstream has charge of it."""
        self.home: EndpointState | None = None
        """Where it has to go, and waits for a place, if its app's policy says so."""
        self.added = b""
        """Field lines that the gateway adds to the worker's final response."""
        self.problem: Problem | None = None
        """What the gateway answered in a worker's place."""
        self.noted = False
        """It will be remembered, however long it takes and whichever number it has."""
        self.name = b""
        """The field line that tells the worker and the client what it is called, if they are told."""
        self.number = 0
        """Which one it is, counted from 1; the lab's own requests are counted apart."""
        self.started = 0.0
        """Monotonic time of its acceptance; so are the next two."""
        self.asked = 0.0
        """When it was sent to the worker that has it; 0 while none has."""
        self.first = 0.0
        """When the head of an answer that comes in pieces was there; 0 for one that came whole."""
        self.queued = 0.0
        """Seconds that it waited for a place ..."""
        self.connecting = 0.0
        """... and for a connection."""
        self.status = 0
        """What the client was sent; 0 while it was sent nothing."""
        self.sent = 0
        """Bytes of the answer's body."""
        self.until = NEVER
        """Monotonic time by which it has to be done."""
        self.gateway = gateway
        self._since = 0.0
        """When its present wait for a place or a connection began."""
        self._patience = 0.0
        """How long it waits for a place, in seconds."""
        self._eventful = False
        """Something happened to it that happens to few: what begins with zero below, or as empty, may not be so now."""
        self._interims = 0
        self._redirects = 0
        self._keep = False
        """The client may send another request after this response."""
        self._reusable = False
        """The worker may be sent another one."""
        self._chunks = False
        """The response's body leaves in chunks."""
        self._endless = False
        """The response's body ends when the worker hangs up."""

    # -- the request

    def begin(self, request: RequestHead, data: bytes) -> bytes:
        """Accept a request; `data` came right behind its head. Returns what of `data` does not belong to it."""
        gateway = self.gateway
        clock = gateway.now
        self.started = clock()
        self.phase = ACCEPTED
        self.request = request
        counters = self.counters
        self.number = number = counters.accepted = counters.accepted + 1
        self.latency = None
        if self.noted:
            self.noted, self.problem, self.retrial = False, None, None
        recorder = gateway.recorder
        if recorder.explains_all:
            self.name = recorder.names[self.downstream.own] % number
            if request.fields.named:
                recorder.baptise(self)
        elif self.name:
            self.name = b""
        self.asked = 0.0
        self.route = NOWHERE
        self.status = self.sent = 0
        if self._eventful:
            self._eventful = False
            self.queued = self.connecting = self.first = 0.0
            self.until = NEVER
            self.original = b""
            self._interims = self._redirects = 0
        if request.fields.length:
            self.upload = Upload(self, gateway, request.fields.length)
            data = self.upload.begin(data)
            if self.phase is not ACCEPTED:
                return data
        self._route()
        return data

    def receive(self, data: bytes) -> bytes:
        """More from the client while this request is served. Returns what lies behind the request's end."""
        return data if self.upload is None or self.upload.done else self.upload.receive(data)

    def limit_time(self, seconds: float) -> None:
        """It has so long in all, or less if a client that is trusted says so."""
        asked = deadlines.asked_for(self.request) if self.gateway.trusts(self.downstream.peer) else None
        if asked is not None and asked < seconds:
            seconds = asked
        self.request = deadlines.unasked(self.request)
        self.until = min(self.until, self.started + seconds)
        self._eventful = True

    def is_late(self, impatient: bool) -> bool:
        """Whether it has waited too long for the place that it is offered, as it has been told if so.

        The wheel is too coarse to prevent that. `impatient`: it has a bound for that wait which has to be kept exactly.
        """
        if not impatient and self.until == NEVER:
            return False
        now = self.gateway.now()
        if now < self.until and not (impatient and now - self._since > self._patience):
            return False
        self.expired()
        return True

    def prepare(self) -> bool:
        """Find out what a program must be told before it begins: which script it is, and how long the body is.

        False: it has been answered, or waits for its body and will be admitted again.
        """
        try:
            self.script = self.script or self.upstream.script(self.route.base, self.request.target)
        except BadMessageError as bad:
            self.fail(problems.bad_message(bad.status, bad.detail))
            return False
        if self.upload is not None and self.request.fields.length == CHUNKED:
            self.upload.collect()
        return self.request.fields.length != CHUNKED

    def waits_with(self, request: RequestHead) -> bool:
        """Whether it is still in the hands of whoever it was given to with `request`."""
        return self.phase is ACCEPTED and self.request is request

    @property
    def uploading(self) -> bool:
        """Its body has not arrived to its end."""
        return self.upload is not None and not self.upload.done

    @property
    def uploaded(self) -> int:
        """Bytes of its body that are here."""
        return 0 if self.upload is None else self.upload.received

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """What was tried before, and failed."""
        return () if self.retrial is None else self.retrial.attempts

    @property
    def tried(self) -> "tuple[EndpointState, ...]":
        """Endpoints that are not to have it, because they have failed it."""
        return () if self.retrial is None else self.retrial.tried

    @property
    def is_sent(self) -> bool:
        """It is at a worker, and its answer has not ended."""
        return self.phase in (WAITING, RELAYING)

    @property
    def identity(self) -> str:
        """What it is called in traces, logs and fields."""
        return self.name[14:-2].decode() if self.name else self.gateway.recorder.identity(self)

    def time_left(self) -> bytes:
        """The field line that tells a worker when it has to be done."""
        return deadlines.field(self.until, self.gateway.now())

    def rewrite(self, target: bytes) -> None:
        """Go on as though the client had asked for `target`."""
        self._eventful = True
        self.original = self.original or self.request.target
        self.request = retargeted(self.request, target)

    def wait(self, now: float, patience: float) -> None:
        """There is no place: it stands in the queue now, for so many seconds at most."""
        self.phase = QUEUED
        self._eventful = True
        self._since = now
        refused = self.retrial is not None and self.retrial.refused is not None
        self._patience = self.upstream.spec.timeouts.connect if refused else patience
        due = now + self._patience
        self.gateway.wheel.arm(self, due if due < self.until else self.until)

    def proceed(self, endpoint: "EndpointState") -> None:
        """It was given a place at `endpoint`."""
        self.endpoint = endpoint
        clock = self.gateway.now
        now = self.asked = clock()
        if self.phase is QUEUED:
            self.queued += now - self._since
        connection = endpoint.take(self, now)
        if connection is not None:
            self.connected(connection)
        elif (problem := self.upstream.guard.no_connection()) is not None:
            self.phase, self.asked = ACCEPTED, 0.0
            endpoint.ended(self, now)
            self.fail(problem)
            endpoint.release()
        else:
            self._connect()

    def connected(self, connection: WorkerConnection) -> None:
        """It was given a connection: send what there is of the request, head and first body bytes at once."""
        self.connection = connection
        connection.exchange = self
        before, self.phase = self.phase, WAITING
        if before is CONNECTING:
            self.asked = self.gateway.now()
            self.connecting += self.asked - self._since
        try:
            begin = connection.dialect.request(self)
        except BadMessageError as bad:
            self.fail(problems.bad_message(bad.status, bad.detail))
            return
        gateway = self.gateway
        if before is QUEUED:
            connection.transport.write(begin)  # its worker has nothing to do until this is there
        else:
            gateway.outbox.send(connection.transport, begin)
        if self.upload is None or self.upload.done:
            due = self.asked + self.upstream.spec.timeouts.response_head
            self.deadline = due = due if due < self.until else self.until
            if due < self.looked_at:
                gateway.wheel.arm(self, due)
        else:
            self.upload.connected(connection)
        if self.downstream.blocked:  # since it was accepted: its body was waited for, or it was tried before
            self.hold(True)

    def connect_failed(self, problem: Problem, *, refused: bool) -> None:
        """There is no connection to its endpoint, and it was not sent. `refused`: its endpoint did not want one."""
        endpoint, now = self.endpoint, self.gateway.now()
        took = now - self._since
        endpoint.ended(self, now)
        self.connecting += took
        self.phase = ACCEPTED
        self._blame(problem.detail)
        self._tries().elsewhere(problem, took, refused=refused)
        endpoint.release()

    # -- the response

    def received(self, data: bytes) -> None:
        """Bytes from the worker."""
        if self.phase is RELAYING:
            self._relay(data)
            return
        connection = self.connection
        if connection.transport in self.gateway.outbox.waiting and self.upload is None and connection.reused:
            self._spoken_unasked()
            return
        try:
            answer = connection.dialect.answer(data)
        except BadMessageError as bad:
            self._bad_answer(bad)
            return
        if answer is not None:
            self._respond(answer)
        elif (redirect := self.connection.dialect.redirect) is not None:
            self._follow(redirect)

    def hold(self, held: bool) -> None:
        """Backpressure: while the client takes nothing, nothing is taken from the worker."""
        if self.phase in (WAITING, RELAYING) and not self.connection.transport.is_closing():
            transport = self.connection.transport
            transport.pause_reading() if held else transport.resume_reading()
            self.arm_transfer()

    def worker_took(self, everything: bool) -> None:
        """Backpressure: while the worker takes nothing of the body, nothing is taken from the client."""
        if everything:
            self.downstream.resume_reading()
        else:
            self.downstream.pause_reading()
        if self.upload is not None:
            self.upload.judged_from = -1
        self.arm_transfer()

    def connection_ended(self, error: Exception | None) -> None:
        """The worker hung up; with `error`, by a reset."""
        if self.phase is RELAYING:
            if self._endless and error is None:
                self.downstream.write(LAST_CHUNK + b"\r\n" if self._chunks else b"")
                self._complete(reusable=False, now=self.gateway.now())
            else:
                if not self._download.whole:
                    self.endpoint.broke()
                self._break_off()
        elif was_stale(self, now := self.gateway.now()):
            self._tries().note("Its idle connection had been given up.", now - self.asked, sent=False)
            self.counters.retries += 1
            self._connect()
        else:
            self.endpoint.broke()
            problem = problems.died_before_answer(str(self.endpoint.endpoint), self.connection.dialect.begun)
            self.fail_at_worker(problem, again=self.upstream.guard.retries.reset)

    # -- ends

    def answer(self, head: bytes, body: bytes) -> None:
        """End with an answer of the gateway's own. `head` lacks the empty line."""
        keep = self._may_keep()
        now = self.gateway.now()
        end = self.gateway.date.line(now) + RESPONSE_END[keep, self.request.fields.modern, False]
        body = b"" if self.request.method == b"HEAD" else body
        self.status, self.sent = int(head[9:12]), len(body)
        self._end(ANSWERED, now)
        self.downstream.write(head + self.name + end + body)
        self.downstream.finished(keep, now)

    def fail(self, problem: Problem) -> None:
        """End with a problem, or by breaking off if the worker's response has begun. It holds nothing afterwards."""
        if self.phase is RELAYING:
            self._break_off()
            return
        self._give_up()
        keep = self._may_keep() and not problem.close
        self.status, self.problem, self.noted = problem.status, problem, True
        now = self.gateway.now()
        self._end(problem.outcome, now)
        self.gateway.refused(problem, self.route.app)
        end = self.gateway.date.line(now) + RESPONSE_END[keep, self.request.fields.modern, False]
        if self.gateway.recorder.explains_problems:
            end = self.gateway.recorder.explained_problem(self, problem) + end
        self.downstream.write(problem.response(end, self.request.method != b"HEAD"))
        self.downstream.finished(keep, now)

    def fail_at_worker(self, problem: Problem, again: bool = False) -> None:
        """As `fail`, for what the worker is to blame for. `again`: it is sent once more, if it may be."""
        if self.phase is not RELAYING:
            self._blame(problem.detail)
        if not (again and self._repeat(problem.detail)):
            self.fail(problem)

    def abandon(self) -> None:
        """The client left."""
        if self.phase is not IDLE:
            self._give_up()
            if self.latency is not None:
                self.route.unanswered += 1
            self._end(ABANDONED, self.gateway.now())

    def expired(self) -> None:
        timeouts, upload = self.upstream.spec.timeouts, self.upload
        if self.until < NEVER and self.gateway.now() >= self.until:
            self._out_of_time()
        elif self.phase is QUEUED:
            refused = self.retrial and self.retrial.refused
            self.fail(refused or self.upstream.queue_timeout(self._patience))
        elif self.phase is COLLECTING and upload is not None:
            upload.judge()
        elif self.phase is CONNECTING:
            self._connecting.cancel()
            self.connect_failed(self.endpoint.connect_timeout(timeouts.connect), refused=False)
        elif self.downstream.blocked:
            self.downstream.reset()
        elif self.phase is WAITING and upload is not None and not (upload.done or self.connection.blocked):
            upload.judge()
        elif self.phase is WAITING:
            problem = problems.answer_timeout(str(self.endpoint.endpoint), timeouts.response_head)
            self.fail_at_worker(problem, again=self.upstream.guard.retries.timeout)
        else:
            self._break_off()

    # -- inside

    def _out_of_time(self) -> None:
        """Its deadline has passed. Only a worker that has the whole request is to blame, and only then."""
        now, phase = self.gateway.now(), self.phase
        at_worker = phase is WAITING
        queued = self.queued + (now - self._since if phase is QUEUED else 0)
        connecting = self.connecting + (now - self._since if phase is CONNECTING else 0)
        earlier = sum(attempt.seconds for attempt in self.attempts if attempt.sent)
        answering = now - self.asked if at_worker else 0.0
        before = "for its body to come" if self.request.fields.length else "until it could be admitted"
        doing = "which did not answer" if not self.uploading else "while its body came"
        passed = (
            (now - self.started - queued - connecting - earlier - answering, before),
            (queued, f"in the queue of {self.upstream.spec.app}"),
            (connecting, "for a connection"),
            (earlier, "at workers that failed it"),
            (answering, f"at {self.endpoint.endpoint}, {doing}" if at_worker else ""),
        )
        problem = problems.out_of_time(self.until - self.started, passed)
        if at_worker and not self.uploading:
            self.fail_at_worker(problem)
        else:
            self.fail(problem)

    def _route(self) -> None:
        """Find out who answers, now or again."""
        self.script = self.home = None
        self.added = b""
        gateway, request = self.gateway, self.request
        fields, routes = request.fields, gateway.routes
        if fields.last:
            self.answer(*last_hop(request))
            return
        if fields.relayed and in_a_loop(request.lines, gateway.pseudonym):
            self.fail(problems.LOOP)
            return
        match = routes.match
        route = match(request)
        if route is not None:
            self.route = route
            route.destination.admit(self)
        elif request.target == b"*":
            self.answer(problems.OPTIONS, b"")
        else:
            self.fail(problems.no_route(routes.prefixes, known=routes.knows(request.target)))

    def _tries(self) -> Retrial:
        """It failed: from now on it is known what was tried."""
        self._eventful = True
        if self.retrial is None:
            self.retrial = Retrial(self)
        return self.retrial

    def _repeat(self, why: str) -> bool:
        """Send the request once more, to somebody else if there is anybody. False: it may not be, nothing was done."""
        retrial = self.retrial or Retrial(self)
        if not retrial.grants():
            return False
        self.retrial = retrial
        self._eventful = True
        retrial.again(why, self.gateway.now())
        return True

    def _ask_elsewhere(self, status: int) -> bool:
        """Have somebody else answer, because this answer is one of those that a retry was asked for."""
        endpoint = self.endpoint
        repeated = self._repeat(f"It answered with status {status}.")
        endpoint.failed += repeated
        return repeated

    def _blame(self, why: str) -> None:
        """Its endpoint has failed it."""
        self.endpoint.failed += 1
        if (watch := self.upstream.watch) is not None:
            watch.failed(self, why)

    def _connect(self) -> None:
        self.phase = CONNECTING
        self.asked = 0.0
        self._eventful = True
        self._connecting = asyncio.get_running_loop().create_task(self.endpoint.connect(self))
        self._wait(self.upstream.spec.timeouts.connect)

    def _spoken_unasked(self) -> None:
        """The worker speaks before it was sent the request: what it says answers somebody else's, or nobody's."""
        self.connection.discard()
        why = "Its idle connection spoke without being asked."
        self._tries().note(why, self.gateway.now() - self.asked, sent=False)
        self.counters.retries += 1
        self._connect()

    def _interim(self, head: ResponseHead, rest: bytes) -> None:
        """Relay a 1xx response, and look at what follows it."""
        self._eventful = True
        self._interims += 1
        if head.status == 100 and self.upload is not None:
            self.upload.continued = True
        if head.status == 101:
            self._switch(head, rest)
        elif self._interims > _INTERIM_LIMIT:
            detail = f"It sent {_INTERIM_LIMIT} interim responses and still another one."
            self._bad_answer(BadMessageError(502, detail))
        else:
            if self.request.fields.modern:
                self.downstream.write(head.lines + b"\r\n")
            if rest:
                self.received(rest)

    def _switch(self, head: ResponseHead, rest: bytes) -> None:
        """Both sides take up another protocol: the request is answered, and its connections become a tunnel."""
        offered = tunnel.offered(self.request, self.upstream.spec.upgrades)
        if not tunnel.agreed(head, offered):
            self._bad_answer(BadMessageError(502, "It switches protocols, which nobody asked for."))
            return
        endpoint, connection, downstream = self.endpoint, self.connection, self.downstream
        if (watch := self.upstream.watch) is not None:
            watch.answered(self, head.status)
        self.status = head.status
        now = self.gateway.now()
        self._end(ANSWERED, now, endpoint.latency)
        endpoint.answered += 1
        endpoint.ended(self, now, now)
        connection.exchange = None
        downstream.write(head.lines + tunnel.switch(listed(head.upgrade)) + VIA + b"\r\n")
        tunnel.Tunnel(downstream, connection, self.gateway).open(rest)

    def _respond(self, answer: Answer) -> None:
        """The final response's head is here: send it on, with what there is of the body."""
        head, payload, download = answer
        status = head.status
        if status < 200:
            self._interim(head, payload)
            return
        watch = self.upstream.watch
        if watch is not None and watch.answered(self, status) and self._ask_elsewhere(status):
            return
        gateway, downstream, fields = self.gateway, self.downstream, self.request.fields
        clock = gateway.now
        now = clock()
        self.status = status
        modern, chunks, reusable = fields.modern, False, head.keep_alive
        keep = fields.keep_alive and not (downstream.surplus or gateway.draining)
        if self.upload is not None:
            keep, reusable = keep and self.upload.done, reusable and self.upload.is_taken(self.connection)
        if head.length < 0:  # it ends with a chunk, or with the connection
            chunks, keep = modern, keep and modern
        self._keep = keep
        lines, name, timing, added = head.lines, self.name, b"", self.added
        date = b"" if head.dated else gateway.date.line(now)
        if name:
            lines = without(lines, (REQUEST_ID,)) if head.named else lines
            told = b"" if self._eventful else self.endpoint.told.get(status, b"")
            timing = told % ((now - self.asked) * 1000) if told else gateway.recorder.explained(self, now)
        end = USUAL_END if keep and modern and not chunks else RESPONSE_END[keep, modern, chunks]
        if download is None:
            self.sent = len(payload)
            gateway.outbox.send(downstream.transport, b"".join((lines, date, name, timing, added, end, payload)))
            endpoint = self.endpoint  # as `_complete` does
            self._end(ANSWERED, now, endpoint.latency)
            endpoint.served(self, self.connection, reusable and self.upload is None, now)
            downstream.finished(keep, now)
        else:
            self._eventful = True
            self.first = now
            self._chunks = chunks
            self._endless = head.length == UNTIL_CLOSE
            self._reusable = reusable
            self._download = download
            self._pass_on(b"".join((lines, date, name, timing, added, end)), payload)

    def _relay(self, data: bytes) -> None:
        try:
            payload = self._download.feed(data)
        except BadMessageError as bad:
            self._bad_answer(bad)
        else:
            self._pass_on(b"", payload)

    def _pass_on(self, start: bytes, payload: bytes) -> None:
        download = self._download
        self.phase = RELAYING
        self.sent += len(payload)
        out = start + (chunk(payload) if self._chunks else payload)
        if download.done and self._chunks:
            out += LAST_CHUNK + download.trailers + b"\r\n"
        self.downstream.write(out)
        if download.done:
            self._complete(self._reusable and not download.rest, self.gateway.now())
        elif out:
            self.arm_transfer()

    def _complete(self, reusable: bool, now: float) -> None:
        """The whole response has gone to the client. If the request has not all come, nobody wants the rest.

        An answer that came whole does this in its place, in `_respond`.
        """
        endpoint = self.endpoint
        self._end(ANSWERED, now, endpoint.latency)
        endpoint.served(self, self.connection, reusable and self.upload is None, now)
        self.downstream.finished(self._keep, now)

    def _follow(self, redirect: cgi.LocalRedirect) -> None:
        """Have another path answer in the program's place (RFC 3875 6.2.2)."""
        endpoint = self.endpoint
        if (watch := self.upstream.watch) is not None:
            watch.answered(self, 302)
        unread = self.uploading
        self.phase, self.deadline = ACCEPTED, NEVER
        endpoint.served(self, self.connection, reusable=False, now=self.gateway.now())
        self._eventful = True
        self._redirects += 1
        if unread:
            self.fail(problems.redirected_early(self.upstream.spec.app))
        elif self._redirects > _REDIRECT_LIMIT:
            self.fail(problems.redirects_too_often(self.upstream.spec.app, _REDIRECT_LIMIT))
        else:
            self.original = self.original or self.request.target
            self.request = cgi.redirected(self.request, redirect)
            self.upload = self.latency = None
            if self.retrial is not None:
                self.retrial.begin_anew()
            self.route.unanswered += 1
            self._route()

    def _bad_answer(self, bad: BadMessageError) -> None:
        if self.endpoint.runs_programs:
            self.endpoint.tell(bad.detail, self.connection.pid)
        if self.phase is RELAYING:
            self._break_off()
        else:
            self.fail_at_worker(problems.bad_answer(str(self.endpoint.endpoint), bad.status, bad.detail))

    def _break_off(self) -> None:
        """The client must see that the response is incomplete: a reset cannot be taken for an end.

        One that the client has all of, while its program goes on, is complete: the program alone is given up.
        """
        if self._download.whole:
            self._complete(reusable=False, now=self.gateway.now())
            return
        self._blame("Its answer broke off.")
        self.noted = True
        self._give_up()
        self._end(FAILED, self.gateway.now())
        self.downstream.reset()

    def _give_up(self) -> None:
        """Let go of whatever the phase holds."""
        phase, self.phase = self.phase, ACCEPTED
        if self.probes is not None:
            self.probes.left()
            self.probes = None
        if phase is QUEUED:
            self.queued += self.gateway.now() - self._since
            self.upstream.withdraw(self)
        elif phase not in (ACCEPTED, COLLECTING, IDLE):
            now = self.gateway.now()
            if phase is CONNECTING:
                self.connecting += now - self._since
                self._connecting.cancel()
            else:
                self.connection.discard()
            self.endpoint.ended(self, now, self.first if phase is RELAYING else None)
            self.endpoint.release()

    def _end(self, outcome: Outcome, now: float, answerer: Tally | None = None) -> None:
        """Count how it ended, at the worker that answered, too."""
        self.phase = IDLE
        self.deadline = NEVER
        counters, latency = self.counters, self.latency
        if outcome is ANSWERED:
            counters.answered += 1
        else:
            counters.end(outcome)
        took = now - self.started
        if latency is not None and outcome is not ABANDONED:
            tallies = (latency,) if answerer is None else (latency, answerer)
            count(tallies, took, self.status, self.uploaded if self.upload is not None else 0, self.sent)
            if self._eventful:
                self._count_stages(took, tallies)
        recorder = self.gateway.recorder
        if self.noted or not self.number % recorder.stride or took >= recorder.patience:
            recorder.ended(self, outcome, took)
        if self.upload is not None:
            self.upload = self.upload.left()

    def _count_stages(self, took: float, tallies: tuple[Tally, ...]) -> None:
        """Count where it waited."""
        first = self.first and self.first - self.started
        for tally in tallies:
            tally.stages(self.queued, self.connecting, first, took)

    def _may_keep(self) -> bool:
        """Whether the client may send another request after an answer of the gateway's own; see `_respond`, too."""
        if not self.request.fields.keep_alive or (self.upload is not None and not self.upload.done):
            return False
        return not (self.gateway.draining or self.downstream.surplus)

    def _wait(self, seconds: float) -> None:
        """Begin to wait for a place or a connection."""
        self._since = self.gateway.now()
        due = self._since + seconds
        self.gateway.wheel.arm(self, due if due < self.until else self.until)

    def arm(self, seconds: float) -> None:
        """Set the deadline of what is awaited now."""
        due = self.gateway.now() + seconds
        self.gateway.wheel.arm(self, due if due < self.until else self.until)

    def arm_transfer(self) -> None:
        """Set the deadline of what is awaited next: more of the body, the response's head, more of the response."""
        if self.phase is RELAYING:
            self.arm(self.upstream.spec.timeouts.response_idle)
        elif self.phase is WAITING:
            if self.upload is None or self.upload.done or self.connection.blocked:
                self.arm(self.upstream.spec.timeouts.response_head)
            elif self.upload.judged_from < 0:
                self.upload.judge_from_now()
