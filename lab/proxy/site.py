"""From a request's path to what answers it, for an app with a document root: a file, a script, a redirect or a refusal.

Whoever asks chooses every byte of a path, so this fails closed. A path is decoded once, then its dot segments are
removed, and what is found must lie, after every symbolic link was followed, below the root or a folder of
`SiteSpec.allow`. A script is never a file to be shown, under no name. Nothing is opened here, but the file system is
asked: call `resolve` off the event loop.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

from lab.core.model import SiteSpec

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class File:
    """A regular file that the proxy serves by itself."""

    path: str
    """Absolute, without symbolic links. Whoever opens it makes sure that it still is (`O_NOFOLLOW`)."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script that a worker runs. Its fields are the CGI variables of the same names (RFC 3875 4.1).

    They are decoded; bytes that are no UTF-8 are surrogates (`os.fsencode` gives them back).
    """

    script_filename: str
    """Below the root as the site names it, symbolic links left as they are: so do nginx and Apache."""
    script_name: str
    """The route included."""
    path_info: str
    """Empty, or it begins with a slash."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer is `status` (400, 403 or 404), and `why` is one sentence for whoever asked."""

    status: int
    why: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """A folder was asked for without its last slash: 301, so that relative links in its index work."""

    location: str
    """An absolute path, percent-encoded. The query has to be put behind it."""


Resolution = File | Script | Refused | Redirect

_NOT_FOUND = Refused(404, "This site has no such file.")
_HIDDEN = Refused(403, "Names that begin with a dot are hidden.")
_DENIED = Refused(403, "This part of the site is not shown.")
_OUTSIDE = Refused(403, "A symbolic link leads out of the site's root.")
_SOURCE = Refused(403, "Scripts are run, never shown.")
_NO_INDEX = Refused(403, "This folder has no index, and folders are not listed.")
_ABOVE = Refused(400, "The path climbs above the route with `..`.")
_BAD_PERCENT = Refused(400, "A `%` is not followed by two hexadecimal digits.")
_NUL = Refused(400, "The path contains a NUL byte.")
_ENCODED_SLASH = Refused(400, "The path contains an encoded slash, which servers take for different things.")


def resolve(site: SiteSpec, route: str, path: str) -> Resolution:
    """What answers `path`, the request target up to its `?` as it was sent; it begins with `route`. Raises nothing."""
    names = _names(path.removeprefix(route.rstrip("/")))
    if isinstance(names, Refused):
        return names
    if any(_below("/" + "/".join(names), prefix) for prefix in site.deny):
        return _DENIED
    return _Walk(site, unquote(route.rstrip("/"), errors="surrogateescape")).to(names)


def _names(path: str) -> list[str] | Refused:
    """The names in a path below the route, decoded, without dots and double slashes; the last is empty for a folder."""
    if _BAD_ESCAPE.search(path):
        return _BAD_PERCENT
    if "%2f" in path.lower():
        return _ENCODED_SLASH
    names: list[str] = []
    name = ""
    for name in os.fsdecode(unquote_to_bytes(path)).split("/"):
        if "\0" in name:
            return _NUL
        if name == "..":
            if not names:
                return _ABOVE
            names.pop()
        elif name not in ("", "."):
            names.append(name)
    if path and name in ("", ".", ".."):
        names.append("")
    return names


class _Walk:
    """One look through a site's folders, name by name, as a path says."""

    def __init__(self, site: SiteSpec, base: str) -> None:
        self._site = site
        self._root = site.root.rstrip("/")
        self._base = base
        self._front = "/" + site.front_controller if site.front_controller else ""
        self._scripts = tuple(suffix.lower() for suffix in site.scripts)

    def to(self, names: list[str]) -> Resolution:
        here = ""
        for place, name in enumerate(names):
            if name.startswith("."):
                return _HIDDEN
            if not name:
                break
            here += "/" + name
            mode = self._mode(here)
            if stat.S_ISREG(mode):
                return self._file(here, names[place + 1 :])
            if not stat.S_ISDIR(mode):
                return self._missing(names)
        return self._folder(here, names)

    def _file(self, here: str, rest: list[str]) -> Resolution:
        """What follows a script's name is its PATH_INFO; behind a file's name nothing may follow."""
        if here == self._front or self._is_script(here):
            return self._script(here, "".join("/" + name for name in rest))
        if rest:
            return self._missing([*here.split("/")[1:], *rest])
        real = os.path.realpath(self._root + here)
        if self._is_script(real):
            return _SOURCE
        return self._refusal(real) or File(real)

    def _script(self, here: str, path_info: str) -> Resolution:
        filename = self._root + here
        refused = self._refusal(os.path.realpath(filename))
        return refused or Script(filename, self._base + here, path_info)

    def _folder(self, here: str, names: list[str]) -> Resolution:
        index = next((f"{here}/{name}" for name in self._site.index if self._is_file(f"{here}/{name}")), None)
        if index is None:
            return self._missing(names) if self._front else _NO_INDEX
        if not names or names[-1]:
            return Redirect(_quoted(self._base + here) + "/")
        return self._file(index, [])

    def _missing(self, names: list[str]) -> Resolution:
        """The front controller gets the path as its PATH_INFO, as it does from PHP's own server (php_cli_server.c)."""
        if self._front and self._is_file(self._front):
            return self._script(self._front, "/" + "/".join(names))
        return _NOT_FOUND

    def _refusal(self, real: str) -> Refused | None:
        """Why a file may not be used, wherever a symbolic link has led. None: it may."""
        site = self._site
        if not any(_below(real, os.path.realpath(root)) for root in (site.root, *site.allow)):
            return _OUTSIDE
        denied = (os.path.realpath(self._root + prefix) for prefix in site.deny)
        return _DENIED if any(_below(real, folder) for folder in denied) else None

    def _is_script(self, path: str) -> bool:
        return path.lower().endswith(self._scripts)

    def _is_file(self, here: str) -> bool:
        return stat.S_ISREG(self._mode(here))

    def _mode(self, here: str) -> int:
        """Type and permissions; 0 for what is not there, cannot be looked at, or has too long a name."""
        try:
            return Path(self._root + here).stat().st_mode
        except OSError:
            return 0


def _below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or in it."""
    folder = folder.rstrip("/")
    return path == folder or path.startswith(folder + "/")


def _quoted(path: str) -> str:
    return quote_from_bytes(os.fsencode(path), safe="/:@!$&'()*+,;=~")
