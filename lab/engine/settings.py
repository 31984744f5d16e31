"""Settings of a running app, or of the proxy, by name, as text: what `cgilab set search liveness.interval=1` means.

A key is a path into `AppSpec` or `ProxySettings`: `selection`, `liveness.interval`, `php.ini.memory_limit`. Settings of
a pool are what one changes most, so they need no prefix: `max_workers` is `pool.max_workers`. Nothing here is listed by
hand: keys, types and bounds are those of the model.
"""

import math
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import inspect

from lab.config.documents import words
from lab.core.errors import NotPossibleError
from lab.core.model import PROXY, AppSpec, PoolSettings, ProxySettings
from lab.core.spelling import nearest, quoted
from lab.engine.lab import Changed

_FIXED = {"name": "It is what commands, events and figures call the app."}
"""What a running app keeps, and why."""
_POOL = "pool"
_NONE = "null"
"""How the absence of a part such as `scaling` is written."""


S = TypeVar("S", AppSpec, ProxySettings)


def change(spec: S, changes: Mapping[str, str]) -> tuple[S, tuple[Changed, ...]]:
    """`spec` with all `changes` made, and each of them. Raises `NotPossibleError` for the first wrong one."""
    before = msgspec.to_builtins(spec)
    after = msgspec.to_builtins(spec)
    paths: dict[str, tuple[str, ...]] = {}
    for key, text in changes.items():
        path, kind = _find(type(spec), key)
        if path in paths.values():
            raise NotPossibleError(f"Found {key} beside another name of the same setting.", "Set it once.")
        paths[key] = path
        _put(after, paths[key], _value(key, kind, text))
    changed = _whole(after, type(spec))
    now = msgspec.to_builtins(changed)
    name = spec.name if isinstance(spec, AppSpec) else PROXY
    told = (Changed(name, key, _text(_get(before, path)), _text(_get(now, path))) for key, path in paths.items())
    return changed, tuple(told)


def listing(spec: AppSpec | ProxySettings) -> Iterator[tuple[str, str]]:
    """Every setting that can be changed, under its shortest key, with its value as text."""
    document = msgspec.to_builtins(spec)
    yield from _leaves("", document.pop(_POOL, {}))
    yield from _leaves("", {name: value for name, value in document.items() if name not in _FIXED})


def _leaves(prefix: str, part: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in part.items():
        if isinstance(value, dict):
            yield from _leaves(f"{prefix}{name}.", value)
        else:
            yield prefix + name, _text(value)


def _find(top: type[AppSpec | ProxySettings], key: str) -> tuple[tuple[str, ...], Any]:
    """The way from `top` down to the setting that `key` names, and its type. In a dictionary, the rest is a name."""
    steps = key.split(".")
    if top is AppSpec:
        if steps[0] in _FIXED:
            raise NotPossibleError(f"{steps[0]} cannot be changed while the app runs.", _FIXED[steps[0]])
        if steps[0] in PoolSettings.__struct_fields__:
            steps.insert(0, _POOL)
    kind: Any = top
    for place, step in enumerate(steps):
        inner = _some(kind)
        if get_origin(inner) is dict:
            return (*steps[:place], ".".join(steps[place:])), get_args(inner)[1]
        if not _is_struct(inner):
            raise NotPossibleError(f"Found the setting {quoted(key)}, but {'.'.join(steps[:place])} has no parts.")
        kind = _field(inner, step, key)
    return tuple(steps), kind


def _field(kind: Any, name: str, key: str) -> Any:
    """The type of a field. Raises `NotPossibleError` with the nearest key."""
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    if name not in fields:
        known = {*fields, *(PoolSettings.__struct_fields__ if kind is AppSpec else ())} - _FIXED.keys()
        owner = "the proxy does not have" if kind is ProxySettings else "no app has"
        raise NotPossibleError(f"Found the setting {quoted(key)}, which {owner}.", nearest(name, known))
    return fields[name]


def _value(key: str, kind: Any, text: str) -> Any:
    """`text` as the model has it, checked against its type and bounds. A list is written with commas."""
    if text == _NONE and _some(kind) is not kind:
        return None
    inner = _some(kind)
    if _is_struct(inner) or get_origin(inner) is dict:
        part = inner.__struct_fields__[0] if _is_struct(inner) else "NAME"
        raise NotPossibleError(f"{key} has parts: found {quoted(text)}, expected a value for one, as in {key}.{part}=.")
    given: Any = [word for word in text.split(",") if word] if get_origin(_bare(inner)) is tuple else text
    try:
        value = msgspec.convert(given, inner, strict=False)
    except msgspec.ValidationError:
        value = math.nan
    if isinstance(value, float) and not math.isfinite(value):
        expected = words(inspect.type_info(inner))
        raise NotPossibleError(f"{key}: found {quoted(text)}, expected {expected}.")
    return msgspec.to_builtins(value)


def _whole(document: dict[str, Any], kind: type[S]) -> S:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:  # every value is right: a part that was added lacks one that it needs
        raise NotPossibleError(f"Not enough settings: {error}.", "Set what is missing in the same command.") from error


def _put(document: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for step in path[:-1]:
        if document.get(step) is None:  # a part that the app did not have, such as `scaling`
            document[step] = {}
        document = document[step]
    document[path[-1]] = value


def _get(document: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        document = document.get(step) if isinstance(document, dict) else None
    return document


def _text(value: Any) -> str:
    """A value as `set` takes it."""
    match value:
        case None:
            return _NONE
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.15g}"
        case list() | tuple():
            return ",".join(map(str, value))
        case dict():
            return " ".join(f"{name}={_text(one)}" for name, one in value.items())
        case _:
            return str(value)


def _some(kind: Any) -> Any:
    """`X` of `X | None`."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(one for one in get_args(kind) if one is not types.NoneType)
    return kind


def _bare(kind: Any) -> Any:
    """`X` of `Annotated[X, ...]`."""
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
