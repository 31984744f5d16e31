"""What only some programs have: a document root, PHP's own settings, and bounds for those that run once a request."""

import msgspec

from lab.core.model.forms import Seconds, Some, Spec, Version


class PhpSettings(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PHP's own settings for one app."""

    ini: dict[str, str] = msgspec.field(default_factory=dict)
    """Any php.ini value, such as `memory_limit` or `max_execution_time`."""
    version: Version = ""
    """Which PHP to use where several are installed side by side, such as `8.2`; empty means the machine's default."""


class SiteSpec(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document root: files are served by the proxy, scripts are run by the workers. For FastCGI and CGI apps."""

    root: str
    """The folder. Absolute after the manifest was read; there it is relative to the manifest."""
    allow: tuple[str, ...] = ()
    """Further folders that symbolic links below the root may lead to, written as `root` is."""
    index: tuple[str, ...] = ("index.php", "index.html")
    """Tried in this order when a folder is asked for."""
    front_controller: str = ""
    """Script that gets every path that is neither a file nor a script, such as `index.php`; empty means 404."""
    scripts: tuple[str, ...] = (".php",)
    """Suffixes of files that are run and never shown."""
    deny: tuple[str, ...] = ()
    """Path prefixes below the route that get 403, such as `/data`. Names with a leading dot always do."""


class CgiLimits(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one CGI process may do before it is stopped."""

    time: Seconds = 30.0
    """From its start to the end of its answer."""
    header: Some = 64 * 1024
    """Bytes before the empty line."""
    output: Some = 1024 * 1024 * 1024
    """Bytes of its answer's body."""
