"""Where things live: what the lab brings along, and what it keeps for its user.

Content (lessons, samples, exercises) stands at the top of a checkout and inside the package in a wheel.
"""

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parent


def content(kind: str) -> Path:
    """The folder of `lessons`, `samples` or `exercises`."""
    packaged = _PACKAGE / "_content" / kind
    return packaged if packaged.is_dir() else _PACKAGE.parent / kind


def cache() -> Path:
    """Folder for what can be made again: compiled samples."""
    return platformdirs.user_cache_path("cgilab")


def state() -> Path:
    """Folder for what must not be lost: progress, and the logs of workers."""
    return platformdirs.user_state_path("cgilab")


def runtime() -> Path:
    """Folder for sockets, readable by this user alone. Not created here."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    return Path(given) / "cgilab" if given else Path(f"/tmp/cgilab-{os.getuid()}")


def control_socket(name: str) -> Path:
    """The control socket of the lab called `name`; `$CGILAB_CONTROL` overrides it."""
    given = os.environ.get("CGILAB_CONTROL")
    return Path(given) if given else runtime() / f"{name}.sock"


def control_sockets() -> list[Path]:
    """Where labs of this user may answer, or did before they were killed; none where `$CGILAB_CONTROL` says where."""
    return [] if os.environ.get("CGILAB_CONTROL") else sorted(runtime().glob("*.sock"))
