"""What PHP needs beyond a command line: its own settings for each app, and PHP-FPM as one worker that has workers.

Settings of php.ini come in a file of the app's own that PHP reads after the machine's (PHP_INI_SCAN_DIR). `-d` would be
shorter, but php-cgi reads no options at all when a client asks for `?-x`, its mend of CVE-2012-1823: anybody could
switch off an app's `memory_limit` under the contract `cgi`.

PHP-FPM's master is one worker in the lab's eyes. How many children it has is for the pool settings to say, which have
its names because they are its invention; they travel in the environment, from which php-fpm.conf takes them. So a
changed setting is a changed program, and comes by a replacement that drops no request. The lab drains a worker before
it sends SIGTERM, so that FPM's graceful SIGQUIT would find nothing left to wait for. Once it is READY it is not probed:
a child would have to answer, and under `ondemand` none would ever be idle. FPM itself ends a child that hangs.
"""

import grp
import hashlib
import math
import os
import pwd
from pathlib import Path

import msgspec

from lab.core.model import AppSpec, Liveness, PhpSettings
from lab.core.states import Policy

FPM = "php-fpm"
"""The language whose one worker is PHP-FPM's master."""
FPM_CONFIG = Path(__file__).with_name("php-fpm.conf")

_SCRIPTS = (".php",)
_MASTER = {"policy": Policy.STATIC, "max_requests": 0}


def as_one_worker(spec: AppSpec) -> AppSpec:
    """What the pool does for a `php-fpm` app: one master with room for as many requests as it has children.

    Other apps stay as they are.
    """
    if spec.language != FPM:
        return spec
    return msgspec.structs.replace(
        spec,
        pool=msgspec.structs.replace(spec.pool, **_MASTER, max_workers=min(1, spec.pool.max_workers)),
        concurrency=max(1, spec.pool.max_workers),
        env=_master_settings(spec) | spec.env,
    )


def ini_folder(settings: PhpSettings, cache: Path) -> dict[str, str]:
    """Write an app's php.ini values below `cache`, unless they are there; returns what to add to its environment.

    The folder is named after what is in it, so that no running worker ever sees other values. Raises `OSError`.
    """
    if not settings.ini:
        return {}
    text = "".join(f"{key} = {value}\n" for key, value in sorted(settings.ini.items())).encode()
    folder = cache / "php" / hashlib.sha256(text).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "app.ini"
    if not file.exists():
        written = folder / f".{os.getpid()}"
        written.write_bytes(text)
        written.replace(file)
    return {"PHP_INI_SCAN_DIR": f":{folder}"}  # nothing before the colon: the machine's own files first


def _master_settings(spec: AppSpec) -> dict[str, str]:
    """The variables of php-fpm.conf. User and group are the lab's own: FPM, unlike other workers, wants to be told."""
    pool = spec.pool
    settings = {
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "group": grp.getgrgid(os.getgid()).gr_name,
        "extensions": " ".join(spec.site.scripts if spec.site is not None else _SCRIPTS),
        "pm": str(pool.policy),
        "max_children": str(max(1, pool.max_workers)),
        "start_servers": str(pool.start_workers),
        "min_spare_servers": str(pool.min_spare),
        "max_spare_servers": str(pool.max_spare),
        "process_idle_timeout": _whole_seconds(pool.idle_timeout),
        "max_requests": str(pool.max_requests),
        "terminate_timeout": _patience(spec.liveness),
    }
    return {f"FPM_{key.upper()}": value for key, value in settings.items()}


def _patience(liveness: Liveness) -> str:
    """When the lab would have replaced a worker of its own that one request occupies; 0 means never."""
    return _whole_seconds(liveness.hang_timeout + liveness.replace_after) if liveness.replace_after else "0"


def _whole_seconds(seconds: float) -> str:
    return f"{max(1, math.ceil(seconds))}s"
