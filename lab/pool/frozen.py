"""A script as it was when it served well. A compiled program outlives an edit of its source; a script that is run from
its source does not: until the edited one has proved itself, or while it is refused, dead workers are refilled with this
copy.

The copy keeps its file name and stands among symbolic links to what stands beside the original, in its folder and in
the one above, so that what it imports or opens relative to itself is found. Only this one file is frozen.
"""

import contextlib
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

_MOST_LINKS = 1000
"""Of one folder: a script in a crowded one is not worth more."""


def freeze(source: Path, cache: Path) -> Path:
    """Copy a script below `cache`, unless that was done; returns the copy. Raises `OSError`."""
    text = source.read_bytes()
    name = hashlib.sha256(os.fsencode(source) + b"\0" + text).hexdigest()[:16]
    place = cache / f"{source.stem}-{name}"
    if not place.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="freezing-") as making:
            _furnish(Path(making, place.name), source, text)
            try:
                Path(making, place.name).rename(place)
            except OSError:  # which of several errors it is depends on the file system
                if not place.exists():
                    raise
                # else another app of the same script did it meanwhile
    return place / source.parent.name / source.name


def as_it_was(source: Path, frozen: Path) -> Path:
    """The script itself while it is what was frozen, else the copy."""
    with contextlib.suppress(OSError):
        if source.read_bytes() != frozen.read_bytes():
            return frozen
    return source if source.exists() else frozen


def _furnish(place: Path, source: Path, text: bytes) -> None:
    folder = place / source.parent.name
    folder.mkdir(parents=True)
    copy = folder / source.name
    copy.write_bytes(text)
    copy.chmod(source.stat().st_mode)
    _link(folder, source.parent.iterdir())
    _link(place, source.parent.parent.iterdir())


def _link(folder: Path, beside: Iterable[Path]) -> None:
    for path in itertools.islice(beside, _MOST_LINKS):
        with contextlib.suppress(FileExistsError):  # the copy, and its folder, stand there already
            (folder / path.name).symlink_to(path)
