"""Whether a running lab may become what it is asked to become. A spec that may not changes nothing.

Whoever asks (`apply`, `set`, an edited manifest), the answer is the same, and it is the manifest's: the model's bounds,
then the rules about settings that do not go together.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec

from lab import plugins
from lab.config.languages import Language
from lab.core import rules
from lab.core.errors import NotPossibleError
from lab.core.model import AppSpec, is_file
from lab.engine.lab import LabSpec
from lab.engine.traffic import check_rate


def admit(spec: LabSpec, before: LabSpec, known: Mapping[str, Language]) -> None:
    """Return if a lab that is `before` may become `spec`. Raises `NotPossibleError` for the first thing against it."""
    try:
        msgspec.convert(msgspec.to_builtins(spec), LabSpec)
    except msgspec.ValidationError as error:
        raise NotPossibleError(f"This is no lab that could run: {error}.") from error
    check_rate(spec.own_rate)
    if spec.name != before.name or spec.listener != before.listener:
        raise NotPossibleError("A running lab keeps its name and its listener.", "Stop it and start another one.")
    for problem in rules.of_proxy(spec.proxy):
        raise NotPossibleError(f"{problem.name}: {problem.key}: {problem.message}")
    for problem in rules.of_lab(spec.apps, spec.processes, known, plugins.names("cgilab.selection"), spec.routes):
        raise NotPossibleError(f"{problem.name}: {problem.key}: {problem.message}")


async def check_paths(before: AppSpec, after: AppSpec) -> None:
    """Raise `NotPossibleError` if what a person has just named is not there."""
    if after.source != before.source:
        source = Path(after.source)
        if not source.is_absolute() or not await asyncio.to_thread(source.is_file):
            raise NotPossibleError(f"source: found no file {source}, expected the absolute path of the app's program.")
    if after.selection != before.selection and is_file(after.selection):
        file = Path(after.selection)
        if not file.is_absolute() or not await asyncio.to_thread(file.is_file):
            raise NotPossibleError(f"selection: found no file {file}, expected the absolute path of a policy.")
    if after.site is not None and after.site != before.site:
        root = Path(after.site.root)
        if not root.is_absolute() or not await asyncio.to_thread(root.is_dir):
            raise NotPossibleError(f"site.root: found no folder {root}, expected the absolute path of a document root.")
