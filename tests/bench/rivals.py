"""What somebody would use instead of the lab to keep one worker alive: how each is installed, started and stopped.

`install` makes an environment of the benchmark's own in the user's cache folder (PyPI and npm; php-fpm and nginx come
from Debian). Each rival is set up as its manual says, with one worker, and with every delay of its own that can be
turned off turned off, so that the best of each is compared.
"""

import configparser
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from abc import ABC, abstractmethod
from pathlib import Path

from lab import paths
from lab.pool.sockdiag import free_port

HANDLER = Path(__file__).with_name("handler.py")
SAMPLES = paths.content("samples")
PYPI = ("gunicorn", "uwsgi", "circus", "supervisor")
NPM = ("pm2",)
SECONDS_TO_START = 30.0


def folder() -> Path:
    """Where the rivals are installed."""
    return paths.cache() / "rivals"


def install() -> None:
    """Install what is missing. Raises `CalledProcessError` with what pip or npm said."""
    home = folder()
    home.mkdir(parents=True, exist_ok=True)
    if not all((home / "python/bin" / tool).exists() for tool in ("gunicorn", "uwsgi", "circusd", "supervisord")):
        subprocess.run([sys.executable, "-m", "venv", home / "python"], check=True)
        subprocess.run([home / "python/bin/pip", "install", "-qqq", *PYPI], check=True)
    if shutil.which("npm") and not (home / "node_modules/.bin/pm2").exists():
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *NPM], cwd=home, check=True)


class Rival(ABC):
    """One server with one worker at `port`. `start` returns when it was started, not when it answers."""

    name: str

    def __init__(self, where: Path) -> None:
        self.where = where
        self.port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        where.mkdir()

    @abstractmethod
    def start(self) -> None: ...

    def stop(self) -> None:
        """End it and everything it started: each was given a session of its own."""
        for process in reversed(self.processes):
            process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    @classmethod
    def lacks(cls) -> str:
        """What is missing to run it here; empty when nothing is."""
        return ""

    def run(self, *argv: str | Path, **env: str) -> None:
        """Start a process in a session of its own, its output into a file."""
        log = (self.where / "log").open("ab")
        process = subprocess.Popen(
            argv, cwd=self.where, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        log.close()

    def wait_for(self, path: Path) -> None:
        """Until a file is there."""
        end = time.monotonic() + SECONDS_TO_START
        while not path.exists():
            if time.monotonic() > end:
                raise SystemExit(f"{self.name}: no {path} after {SECONDS_TO_START:g} s")
            time.sleep(0.01)


def _tool(name: str) -> Path:
    return folder() / "python/bin" / name


class Lab(Rival):
    """`cgilab up` with one app of one worker. `stable_after` is 0: kills from outside would count as early deaths.

    The worker inherits its socket, as gunicorn's, uWSGI's and php-fpm's do. With a standby it does not: a request in
    the queue of an inherited socket waits for that worker's own successor, which comes later than the standby serves.
    """

    standby = 0
    protocol = "http-fd"
    language = "python"
    source = HANDLER

    def start(self) -> None:
        pool = {"max_workers": 1, "standby": self.standby, "stable_after": 0}
        app = {
            "name": "app", "route": "/", "language": self.language, "source": str(self.source), "health": "/health",
            "protocol": self.protocol, "pool": pool,
        }  # fmt: skip
        manifest = {"version": 1, "listener": {"port": self.port}, "apps": [app]}
        (self.where / "manifest.json").write_text(json.dumps(manifest))
        cgilab = Path(sysconfig.get_path("scripts")) / "cgilab"
        env = {"CGILAB_CONTROL": str(self.where / "c"), "XDG_STATE_HOME": str(self.where)}
        self.run(cgilab, "up", "--manifest", self.where / "manifest.json", **env)


class LabPython(Lab):
    name = "cgilab"


class LabPythonStandby(Lab):
    name = "cgilab, one standby"
    standby = 1
    protocol = "http-port"


class LabC(Lab):
    name = "cgilab, C"
    language = "c"
    source = SAMPLES / "search/c/search.c"


class LabCStandby(LabC):
    name = "cgilab, C, one standby"
    standby = 1
    protocol = "http-port"


class Gunicorn(Rival):
    """Preloaded: its master forks a successor that has everything in memory already."""

    name = "gunicorn"

    def start(self) -> None:
        self.run(
            _tool("gunicorn"), "--workers=1", "--preload", f"--bind=127.0.0.1:{self.port}",
            f"--chdir={HANDLER.parent}", "handler:application",
        )  # fmt: skip


class Uwsgi(Rival):
    name = "uWSGI"

    def start(self) -> None:
        self.run(
            _tool("uwsgi"), "--master", "--processes=1", f"--http-socket=127.0.0.1:{self.port}",
            f"--wsgi-file={HANDLER}", "--disable-logging", "--die-on-term",
        )  # fmt: skip


class Circus(Rival):
    """It looks after its processes at an interval: the shortest that keeps it well."""

    name = "circus"

    def start(self) -> None:
        settings = {
            "circus": {
                "check_delay": "0.05",
                "endpoint": f"ipc://{self.where}/endpoint",
                "pubsub_endpoint": f"ipc://{self.where}/pubsub",
            },
            "watcher:app": {"cmd": f"{sys.executable} {HANDLER} {self.port}", "warmup_delay": "0", "max_age": "0"},
        }
        _write_ini(self.where / "circus.ini", settings)
        self.run(_tool("circusd"), self.where / "circus.ini")


class Supervisor(Rival):
    name = "supervisor"

    def start(self) -> None:
        settings = {
            "supervisord": {
                "nodaemon": "true",
                "logfile": f"{self.where}/supervisord.log",
                "pidfile": f"{self.where}/pid",
            },
            "program:app": {
                "command": f"{sys.executable} {HANDLER} {self.port}",
                "autorestart": "true",
                "startsecs": "0",
                "startretries": "1000000",
            },
        }
        if os.getuid() == 0:
            settings["supervisord"]["user"] = "root"
        _write_ini(self.where / "supervisord.conf", settings)
        self.run(_tool("supervisord"), "-c", self.where / "supervisord.conf")


class Pm2(Rival):
    """In the foreground, as in a container: `pm2-runtime`."""

    name = "PM2"

    def start(self) -> None:
        app = {
            "name": "app", "script": str(HANDLER), "interpreter": sys.executable, "args": str(self.port),
            "min_uptime": 0, "max_restarts": 1_000_000, "restart_delay": 0,
        }  # fmt: skip
        (self.where / "app.config.json").write_text(json.dumps({"apps": [app]}))
        runtime = folder() / "node_modules/.bin/pm2-runtime"
        self.run(runtime, "start", self.where / "app.config.json", PM2_HOME=str(self.where / "pm2"))

    @classmethod
    def lacks(cls) -> str:
        return "" if (folder() / "node_modules/.bin/pm2-runtime").exists() else "npm"


def _write_ini(file: Path, settings: dict[str, dict[str, str]]) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict(settings)
    with file.open("w") as out:
        parser.write(out)


def _in_sbin(name: str) -> str | None:
    """The program's path; Debian keeps servers out of users' PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def php_fpm() -> str | None:
    """The newest php-fpm; Debian's carry their version in their name."""
    found = sorted(Path("/usr/sbin").glob("php-fpm[0-9]*"))
    return _in_sbin("php-fpm") or (str(found[-1]) if found else None)


class BehindNginx(Rival):
    """Something that speaks FastCGI at `backend.sock`, behind nginx with one process.

    A connection for each request, as nginx does by default: a kept one would hold a child that others wait for.
    """

    def start_nginx(self, script: Path) -> None:
        """Once the socket is there."""
        self.wait_for(self.where / "backend.sock")
        as_user = "user root;" if os.getuid() == 0 else ""
        (self.where / "nginx.conf").write_text(
            f"{as_user} worker_processes 1; daemon off; pid nginx.pid; error_log nginx.log;\n"
            "events { worker_connections 1024; }\n"
            "http { access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; "
            "uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n"
            f"upstream backend {{ server unix:{self.where}/backend.sock; }}\n"
            f"server {{ listen 127.0.0.1:{self.port}; location / {{ include /etc/nginx/fastcgi_params; "
            f"fastcgi_param SCRIPT_FILENAME {script}; fastcgi_pass backend; }} }} }}\n"
        )
        self.run(_in_sbin("nginx") or "nginx", "-p", self.where, "-c", self.where / "nginx.conf")


class PhpFpm(BehindNginx):
    """Static children, one if nothing else is said."""

    name = "php-fpm"
    children = 1
    script = "<?php header('Content-Type: text/plain'); echo getmypid();"

    def start(self) -> None:
        (self.where / "index.php").write_text(self.script)
        root = os.getuid() == 0
        user = "user = root\ngroup = root\n" if root else ""
        (self.where / "fpm.conf").write_text(
            f"[global]\nerror_log = {self.where}/fpm.log\ndaemonize = no\n[www]\n{user}"
            f"listen = {self.where}/backend.sock\npm = static\npm.max_children = {self.children}\n"
        )
        self.run(php_fpm() or "php-fpm", "-F", *(["-R"] if root else []), "-y", self.where / "fpm.conf")
        self.start_nginx(self.where / "index.php")

    @classmethod
    def lacks(cls) -> str:
        return ", ".join(name for name, found in (("php-fpm", php_fpm()), ("nginx", _in_sbin("nginx"))) if not found)


class FcgiWrap(BehindNginx):
    """CGI programs behind nginx, which runs none itself."""

    name = "fcgiwrap"

    def __init__(self, where: Path, program: Path) -> None:
        super().__init__(where)
        self._program = program

    def start(self) -> None:
        self.run(_in_sbin("fcgiwrap") or "fcgiwrap", "-c2", "-s", f"unix:{self.where}/backend.sock")
        self.start_nginx(self._program)

    @classmethod
    def lacks(cls) -> str:
        return ", ".join(name for name in ("fcgiwrap", "nginx") if not _in_sbin(name))


ALL: tuple[type[Rival], ...] = (
    LabPythonStandby, LabPython, LabCStandby, LabC, Gunicorn, Uwsgi, Circus, Supervisor, Pm2, PhpFpm,
)  # fmt: skip
