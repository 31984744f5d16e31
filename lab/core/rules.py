"""What the form of an app or a process cannot say: which of its settings go together, and why.

The manifest, `apply` and `set` ask the same rules, so a lab that runs can become nothing that a file could not have
begun. A rule is pure: it looks at values, never at the machine. Each breach is a `Finding`: the key, and a sentence
that says what was found, what was expected, and why.
"""

import re
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from ipaddress import ip_network
from pathlib import PurePath
from typing import Protocol
from urllib.parse import urlsplit

from lab.core.model import (
    PROXY,
    AppSpec,
    CgiLimits,
    Contract,
    HealthMethod,
    ListenerSpec,
    Metric,
    PhpSettings,
    ProxySettings,
    Queue,
    RouteSpec,
    ScalingSpec,
    ServiceSpec,
    SiteSpec,
    Tls,
    is_file,
)
from lab.core.route_rules import of_routes, reserved
from lab.core.spelling import nearest, quoted
from lab.core.states import Policy

Finding = tuple[str, str]
"""A key, such as `pool.max_spare`, and a sentence about it."""

_NO_TIME = "found 0, expected more: nothing comes in no time. For as good as no limit, set a day: 86400."


class Language(Protocol):
    """What the rules have to know of a language."""

    @property
    def title(self) -> str:
        """What people call it."""
        ...

    @property
    def start(self) -> Mapping[Contract, object]:
        """The contracts that its programs keep, the preferred one first."""
        ...

    @property
    def files(self) -> Sequence[str]:
        """Suffixes of its source files."""
        ...


Languages = Mapping[str, Language]

PHP_FPM = "php-fpm"
"""The one language whose worker has workers of its own."""
_PHP = frozenset({"php", PHP_FPM})
_OF_THE_PROCESS = frozenset({Metric.CPU, Metric.MEMORY})
_LOYAL = frozenset({"sticky_cookie", "consistent_hash"})
"""Selection policies that send a request to one particular worker."""
_SCRIPTED = frozenset({Contract.FASTCGI, Contract.CGI})
_UNTOLD = {
    Contract.HTTP_SHARED: "on http-shared only the kernel knows which worker serves which request",
    Contract.CGI: "a CGI process serves one request and ends",
}
"""Why workers cannot be told apart."""
_SET_BY_THE_LAB = frozenset({"PORT", "SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"})
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INI_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_HEALTH_FIELDS = {
    HealthMethod.TCP: "address",
    HealthMethod.HTTP: "url",
    HealthMethod.COMMAND: "command",
    HealthMethod.FILE: "path",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding, and whose it is."""

    place: str
    """Where a manifest has it: `apps[0]`."""
    name: str
    key: str
    message: str


def of_lab(
    apps: Sequence[AppSpec],
    processes: Sequence[ServiceSpec],
    languages: Languages,
    policies: Collection[str],
    routes: Sequence[RouteSpec] = (),
) -> Iterator[Problem]:
    """Everything that is wrong with these apps, processes and routes, together and one by one. `policies` are the
    names of selection policies."""
    yield from _of_names(apps, processes, routes)
    yield from _of_needs(apps, processes)
    for place, app in enumerate(apps):
        yield from (Problem(f"apps[{place}]", app.name, *found) for found in of_app(app, languages, policies))
    for place, process in enumerate(processes):
        yield from (Problem(f"processes[{place}]", process.name, *found) for found in of_process(process))
    for place, found in of_routes(routes, apps):
        yield Problem(f"routes[{place}]", routes[place].name, *found)


def of_listener(listener: ListenerSpec) -> Iterator[Problem]:
    """Everything that is wrong with the listener."""
    for key, file in (("certificate", listener.certificate), ("key", listener.key)):
        if listener.tls is Tls.FILES and not file:
            yield Problem("listener", "listener", key, "found nothing, expected a PEM file: tls is files.")
        elif listener.tls is not Tls.FILES and file:
            found = f"found {quoted(file)}, expected tls to be files, or no file: tls is {listener.tls}."
            yield Problem("listener", "listener", key, found)


def of_app(app: AppSpec, languages: Languages, policies: Collection[str]) -> Iterator[Finding]:
    """Everything that is wrong with one app by itself."""
    page = reserved(app.route)
    if page is not None:
        yield "route", f"found {quoted(app.route)}, expected another route: the lab shows pages of its own at {page}."
    yield from _environment(app.env, _SET_BY_THE_LAB)
    yield from _patience(app)
    if not is_file(app.selection) and app.selection not in policies:
        found = f"found {quoted(app.selection)}, expected a selection policy, or a Python file that ends in .py"
        yield "selection", f"{found}. {nearest(app.selection, policies)}"
    if app.scaling is not None:
        yield from _scaling(app, app.scaling)
    language = languages.get(app.language)
    if language is None:
        remedy = nearest(app.language, languages)
        yield "language", f"found {quoted(app.language)}, expected a language of the lab. {remedy}"
        return
    if PurePath(app.source).suffix not in language.files:
        found = f"found {quoted(PurePath(app.source).name)}, expected a {language.title} file"
        yield "source", f"{found} ({' or '.join(language.files)})."
    contracts = tuple(language.start)
    contract = app.protocol or contracts[0]
    if contract not in contracts:
        found = f"found {quoted(contract)}, expected {_one_of(contracts)}"
        yield "protocol", f"{found}: that is how programs in {app.language} get their socket."
    yield from _contract(app, contract)
    yield from _routing(app, contract)
    if contract is not Contract.CGI:
        yield from _POLICIES[app.pool.policy](app)
    if app.site is not None:
        yield from _site(app.site, contract)
    yield from _php(app)


def of_proxy(proxy: ProxySettings) -> Iterator[Problem]:
    """Everything that is wrong with the settings of the proxy itself."""
    if not proxy.timeouts.request_head:
        yield Problem(PROXY, PROXY, "timeouts.request_head", _NO_TIME)
    for key, networks in (("observe_from", proxy.observe_from), ("trusted", proxy.trusted)):
        for number, network in enumerate(networks):
            try:
                ip_network(network, strict=False)
            except ValueError:
                found = f"found {quoted(network)}, expected an address or a network, such as 10.0.0.0/8."
                yield Problem(PROXY, PROXY, f"{key}[{number}]", found)


def of_process(process: ServiceSpec) -> Iterator[Finding]:
    """Everything that is wrong with one process by itself."""
    yield from _environment(process.env, frozenset())
    if not process.command[0]:
        yield "command", "found an empty first word, expected the name of a program."
    yield from _text("command", process.command)
    if process.stop_signal not in signal.Signals.__members__:
        remedy = nearest(process.stop_signal, signal.Signals.__members__)
        yield "stop_signal", f"found {quoted(process.stop_signal)}, expected the name of a signal. {remedy}"
    yield from _health(process)


def host_and_port(address: str) -> tuple[str, int]:
    """`("127.0.0.1", 6379)` of `127.0.0.1:6379` or `[::1]:6379`. Raises `ValueError`."""
    parts = urlsplit(f"//{address}")
    if not parts.hostname or not parts.port or parts.netloc != address or parts.username is not None:
        raise ValueError(f"{address!r} is not host:port")
    return parts.hostname, parts.port


def http_target(url: str) -> tuple[str, int, str]:
    """Host, port, and path with query of an `http://` URL. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{url!r} is not http://host/path")
    path = parts.path or "/"
    return parts.hostname, parts.port or 80, f"{path}?{parts.query}" if parts.query else path


# -- together


def _of_names(
    apps: Sequence[AppSpec], processes: Sequence[ServiceSpec], routes: Sequence[RouteSpec]
) -> Iterator[Problem]:
    """One name means one thing in commands and events, so an app, a process and a route cannot share it either."""
    names: dict[str, str] = {}
    paths: dict[str, str] = {}
    for place, app in enumerate(apps):
        if app.name == PROXY:
            found = f"found {quoted(PROXY)}, expected another name: commands mean the proxy itself by it."
            yield Problem(f"apps[{place}]", app.name, "name", found)
        yield from _twice(names, f"apps[{place}]", app.name, "name", app.name)
        yield from _twice(paths, f"apps[{place}]", app.name, "route", app.route)
    for place, process in enumerate(processes):
        yield from _twice(names, f"processes[{place}]", process.name, "name", process.name)
    for place, route in enumerate(routes):
        yield from _twice(names, f"routes[{place}]", route.name, "name", route.name)


def _twice(seen: dict[str, str], place: str, name: str, key: str, value: str) -> Iterator[Problem]:
    first = seen.setdefault(value.rstrip("/"), place)
    if first != place:
        yield Problem(place, name, key, f"found {quoted(value)}, expected another one: {first} has it already.")


def _of_needs(apps: Sequence[AppSpec], processes: Sequence[ServiceSpec]) -> Iterator[Problem]:
    known = {process.name for process in processes}
    owners: list[tuple[str, AppSpec | ServiceSpec]] = [(f"apps[{place}]", app) for place, app in enumerate(apps)]
    owners += [(f"processes[{place}]", process) for place, process in enumerate(processes)]
    for place, owner in owners:
        for number, name in enumerate(owner.needs):
            if name in owner.needs[:number]:
                yield Problem(place, owner.name, f"needs[{number}]", f"found {quoted(name)} twice, expected it once.")
            elif name not in known:
                found = f"found {quoted(name)}, expected a process of this lab. {nearest(name, known)}"
                yield Problem(place, owner.name, f"needs[{number}]", found)
    circle = _circle(processes)
    if circle:
        place, name = next((f"processes[{n}]", one.name) for n, one in enumerate(processes) if one.name == circle[0])
        found = f"found the circle {' -> '.join(circle)}, expected an order: each would wait for the other."
        yield Problem(place, name, "needs", found)


def _circle(processes: Sequence[ServiceSpec]) -> tuple[str, ...]:
    """Names of which each needs the next, the first one again at the end; empty when there is no such circle."""
    try:
        TopologicalSorter({process.name: process.needs for process in processes}).prepare()
    except CycleError as error:
        return tuple(reversed(error.args[1]))
    return ()


# -- apps


def _patience(app: AppSpec) -> Iterator[Finding]:
    pool = app.pool
    for key, value in (
        ("pool.start_timeout", pool.start_timeout),
        ("liveness.interval", app.liveness.interval),
        ("liveness.timeout", app.liveness.timeout),
    ):
        if value <= 0:
            yield key, "found 0, expected more: no worker can be ready, or answer, in no time."
    for key in ("request_body", "connect", "response_head", "response_idle", "tunnel_idle"):
        if not getattr(app.timeouts, key):
            yield f"timeouts.{key}", _NO_TIME
    shedding = app.shedding
    if shedding.target > shedding.interval:
        found = f"found {shedding.target:g}, expected at most {shedding.interval:g}, which is shedding.interval"
        yield "shedding.target", f"{found}: an overload must not make anybody wait longer."
    if pool.backoff_initial > pool.backoff_max:
        found = f"found {pool.backoff_initial:g}, expected at most {pool.backoff_max:g}, which is backoff_max"
        yield "pool.backoff_initial", f"{found}: waiting grows from the one to the other."


def _contract(app: AppSpec, contract: Contract) -> Iterator[Finding]:
    """What one way of getting a socket allows."""
    if contract is Contract.HTTP_SHARED:
        yield from _shared(app)
    if contract is Contract.CGI:
        yield from _workerless(app)
    elif app.cgi != CgiLimits():
        yield "cgi", f"found limits of CGI processes, but the protocol is {contract}; expected them for cgi only."
    if contract is Contract.FASTCGI and app.concurrency != 1 and app.language != PHP_FPM:
        found = f"found {app.concurrency}, expected 1"
        yield "concurrency", f"{found}: a FastCGI worker serves one request at a time, and queues others unseen."


def _shared(app: AppSpec) -> Iterator[Finding]:
    """Which worker accepts a connection only the kernel knows: what needs figures per worker cannot be had."""
    pool, why = app.pool, "on http-shared only the kernel knows which worker serves which request"
    if pool.policy is not Policy.STATIC:
        found = f"found {quoted(pool.policy)}, expected {quoted(Policy.STATIC)}"
        yield "pool.policy", f"{found}: it stops the worker that was idle longest, and {why}."
    if pool.max_requests:
        yield "pool.max_requests", f"found {pool.max_requests}, expected 0: {why}."
    if pool.standby:
        found = f"found {pool.standby}, expected 0"
        yield "pool.standby", f"{found}: all workers accept on one socket, so none can be kept from requests."
    if app.selection in _LOYAL:
        yield "selection", f"found {quoted(app.selection)}, expected another policy: {why}."


def _workerless(app: AppSpec) -> Iterator[Finding]:
    """CGI has a process per request and no worker that stays: what is about workers that stay means nothing."""
    pool, why = app.pool, "a CGI process serves one request and ends"
    if pool.policy is not Policy.STATIC:
        yield "pool.policy", f"found {quoted(pool.policy)}, expected {quoted(Policy.STATIC)}: {why}."
    for key, value in (("max_requests", pool.max_requests), ("standby", pool.standby)):
        if value:
            yield f"pool.{key}", f"found {value}, expected 0: {why}."
    if app.queue is Queue.WORKER:
        yield "queue", f"found {quoted(app.queue)}, expected {quoted(Queue.UPSTREAM)}: {why}, so none has a queue."
    if app.scaling is not None:
        yield "scaling", f"found rules for scaling, expected none: {why}, so there are no workers to add."


def _routing(app: AppSpec, contract: Contract) -> Iterator[Finding]:
    """What decides where requests go needs workers that can be told apart."""
    check, outliers = app.health_check, app.outliers
    ejects = bool(outliers.consecutive_errors or outliers.success_rate_factor)
    if why := _UNTOLD.get(contract):
        if check.interval:
            yield "health_check.interval", f"found {check.interval:g}, expected 0: {why}."
        if ejects:
            yield "outliers", f"found an ejection of workers, expected none: {why}."
    if check.interval and not check.timeout:
        yield "health_check.timeout", "found 0, expected more: no worker can answer in no time."
    if outliers.base_ejection > outliers.max_ejection:
        found = f"found {outliers.base_ejection:g}, expected at most {outliers.max_ejection:g}, which is max_ejection"
        yield "outliers.base_ejection", f"{found}: ejections grow from the one to the other."


def _static(app: AppSpec) -> Iterator[Finding]:
    yield from ()


def _dynamic(app: AppSpec) -> Iterator[Finding]:
    """The rules of PHP-FPM (fpm_conf.c, fpm_conf_process_all_pools)."""
    pool = app.pool
    if pool.min_spare < 1:
        yield "pool.min_spare", "found 0, expected at least 1: without an idle worker the next request has to wait."
    if pool.max_spare < pool.min_spare:
        found = f"found {pool.max_spare}, expected at least {pool.min_spare}, which is min_spare"
        yield "pool.max_spare", f"{found}: else each worker that is started is one to be stopped."
    elif not pool.min_spare <= pool.start_workers <= pool.max_spare:
        found = f"found {pool.start_workers}, expected {pool.min_spare} to {pool.max_spare} (min_spare to max_spare)"
        yield "pool.start_workers", f"{found}: at the start all are idle."
    if pool.max_spare > pool.max_workers:
        found = f"found {pool.max_spare}, expected at most {pool.max_workers}, which is max_workers"
        yield "pool.max_spare", f"{found}: an idle worker is a worker too."
    if pool.min_workers > pool.max_workers:
        found = f"found {pool.min_workers}, expected at most {pool.max_workers}, which is max_workers"
        yield "pool.min_workers", f"{found}: there cannot be more."


def _ondemand(app: AppSpec) -> Iterator[Finding]:
    pool = app.pool
    if pool.max_workers < 1:
        yield "pool.max_workers", "found 0, expected at least 1: no request could ever start a worker."
    if pool.idle_timeout <= 0:
        yield "pool.idle_timeout", "found 0, expected more: each worker would be stopped before its first request."
    if pool.standby:
        found = f"found {pool.standby}, expected 0"
        yield "pool.standby", f"{found}: ondemand keeps no worker that no request has asked for."


_POLICIES = {Policy.STATIC: _static, Policy.DYNAMIC: _dynamic, Policy.ONDEMAND: _ondemand}


def _scaling(app: AppSpec, scaling: ScalingSpec) -> Iterator[Finding]:
    if scaling.target and (scaling.high or scaling.low):
        found = f"found target {scaling.target:g} beside high {scaling.high:g} and low {scaling.low:g}"
        yield "scaling", f"{found}, expected the one or the others: they would pull in two directions."
    elif not scaling.target and scaling.high <= scaling.low:
        found = f"found {scaling.high:g}, expected more than {scaling.low:g}, which is low"
        yield "scaling.high", f"{found}; or a target: between high and low nothing changes, and that gap must exist."
    if scaling.min_workers > scaling.max_workers:
        found = f"found {scaling.min_workers}, expected at most {scaling.max_workers}, which is scaling.max_workers"
        yield "scaling.min_workers", f"{found}: there is nothing between them."
    if app.language == PHP_FPM and scaling.metric in _OF_THE_PROCESS:
        found = f"found {quoted(scaling.metric)}, expected one of: {', '.join(sorted(set(Metric) - _OF_THE_PROCESS))}"
        yield "scaling.metric", f"{found}: of PHP-FPM the lab measures the master alone, and its children do the work."
    if app.pool.policy is Policy.ONDEMAND and scaling.min_workers < 1:
        yield "scaling.min_workers", "found 0, expected at least 1: scaling moves max_workers, which ondemand needs."
    if app.pool.policy is Policy.DYNAMIC and scaling.min_workers < app.pool.max_spare:
        found = f"found {scaling.min_workers}, expected at least {app.pool.max_spare}, which is max_spare"
        yield "scaling.min_workers", f"{found}: scaling moves max_workers, and an idle worker is a worker too."


def _site(site: SiteSpec, contract: Contract) -> Iterator[Finding]:
    if contract not in _SCRIPTED:
        found = f"found a document root, but the protocol is {contract}; expected {_one_of(sorted(_SCRIPTED))}"
        yield "site", f"{found}: a worker that speaks HTTP cannot be told which script to run."
    if not site.root:
        yield "site.root", "found nothing, expected a folder."
    yield from _text("site.root", (site.root,))
    for number, suffix in enumerate(site.scripts):
        if not suffix.startswith(".") or len(suffix) < 2:
            yield f"site.scripts[{number}]", f"found {quoted(suffix)}, expected the ending of a name, such as .php."
    for number, prefix in enumerate(site.deny):
        if not prefix.startswith("/"):
            yield f"site.deny[{number}]", f"found {quoted(prefix)}, expected a path that begins with /."


def _php(app: AppSpec) -> Iterator[Finding]:
    if app.language not in _PHP and app.php != PhpSettings():
        yield (
            "php",
            f"found settings of PHP, but the language is {app.language}; expected them for php and php-fpm only.",
        )
    for name, value in app.php.ini.items():
        if not _INI_NAME.fullmatch(name):
            yield "php.ini", f"found the name {quoted(name)}, expected one such as memory_limit."
        if any(mark in value for mark in "\0\r\n"):
            yield f"php.ini.{name}", f"found {quoted(value)}, expected one line: PHP reads a setting a line."


# -- processes


def _health(process: ServiceSpec) -> Iterator[Finding]:
    health = process.health
    for method, key in _HEALTH_FIELDS.items():
        value = getattr(health, key)
        if value and method is not health.method:
            # Somebody thinks that it is asked, and it is not.
            found = f"found {quoted(value)}, but the method is {health.method}"
            yield f"health.{key}", f"{found}; expected it for the method {method} only."
    asked = _HEALTH_FIELDS.get(health.method)
    if asked is not None:
        yield from _asked(health.method, asked, getattr(health, asked))
    if health.interval >= health.start_timeout:
        found = f"found {health.start_timeout:g}, expected more than {health.interval:g}, which is interval"
        yield "health.start_timeout", f"{found}: it has to be asked at least once."


def _asked(method: HealthMethod, key: str, value: str | tuple[str, ...]) -> Iterator[Finding]:
    """Is what a method asks something that can be asked?"""
    if isinstance(value, tuple):
        yield from _text(f"health.{key}", value)
    reason = None
    if not value or not value[0]:
        reason = "nothing"
    elif method in _READ and isinstance(value, str):
        try:
            _READ[method](value)
        except ValueError:
            reason = quoted(value)
    if reason is not None:
        yield f"health.{key}", f"found {reason}, expected {_EXPECTED[method]}: the method is {method}."


_READ = {HealthMethod.TCP: host_and_port, HealthMethod.HTTP: http_target}
_EXPECTED = {
    HealthMethod.TCP: "host:port, such as 127.0.0.1:6379",
    HealthMethod.HTTP: "a URL such as http://127.0.0.1:9000/health",
    HealthMethod.COMMAND: 'a command such as ["redis-cli", "ping"]',
    HealthMethod.FILE: "the path of a file",
}


# -- texts


def _environment(environment: Mapping[str, str], taken: frozenset[str]) -> Iterator[Finding]:
    for name, value in environment.items():
        if not _ENVIRONMENT_NAME.fullmatch(name):
            yield "env", f"found the name {quoted(name)}, expected letters, digits and _ only."
        elif name in taken:
            yield "env", f"found {name}, expected another name: the lab gives each worker its own."
        yield from _text(f"env.{name}", (value,))


def _text(key: str, words: Sequence[str]) -> Iterator[Finding]:
    if any("\0" in word for word in words):
        yield key, "found a NUL byte, expected text: the kernel ends a text there."


def _one_of(words: Sequence[str]) -> str:
    return f"one of: {', '.join(words)}" if len(words) > 1 else words[0]
