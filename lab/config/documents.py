"""From a file that a person wrote to a typed value, or to one sentence that says where the file is wrong.

A document is JSON or TOML, by the file's ending. Whatever is wrong with it becomes a `ConfigError` that names the file,
the place, what was found, what is expected, and the nearest word that would have been right. Nothing is guessed: a key
that stands twice, NaN and half a character are errors too.
"""

import json
import math
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from lab.core.errors import ConfigError
from lab.core.spelling import meant, nearest, quoted

T = TypeVar("T")

LARGEST = 1024 * 1024
"""Bytes. A file that people write by hand is smaller."""

_PLACE = re.compile(r" - at (?P<key>`key` in )?`\$(?P<place>.*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(?P<name>.*?)`")


def read(file: Path) -> Any:
    """The document in `file` as dictionaries, lists, text, numbers and booleans. Raises `ConfigError`."""
    parse = _PARSERS.get(file.suffix.lower())
    if parse is None:
        raise ConfigError(f"{file}: found the ending {file.suffix!r}, expected .json or .toml.")
    text = _text(file)
    if not text.strip():
        raise ConfigError(f"{file}: found nothing in it, expected {file.suffix[1:].upper()}.")
    try:
        document = parse(text)
        _check_scalars(document, "")
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}:{error.colno}: not JSON: {error.msg}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}.") from error
    except ValueError as error:
        raise ConfigError(f"{file}: {error}.") from error
    except RecursionError:
        raise ConfigError(f"{file}: found lists or objects nested too deeply to be read.") from None
    return document


def convert(document: Any, kind: type[T], file: Path) -> T:
    """`document` as a value of `kind`. Raises `ConfigError` for the first thing in it that does not fit."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error), document, kind, file) from None


def _text(file: Path) -> str:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ConfigError(f"{file}: found {_sort_of(file)}, expected a file.")
        with file.open("rb") as opened:
            data = opened.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{file}: cannot be read: {reason}.") from error
    if len(data) > LARGEST:
        raise ConfigError(f"{file}: found more than {LARGEST} bytes, expected a file written by hand.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: found a byte {data[error.start]:#04x} that is not UTF-8.") from error


def _sort_of(file: Path) -> str:
    return "a folder" if file.is_dir() else "a device, a pipe or a socket"


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


_PARSERS: dict[str, Callable[[str], Any]] = {".json": _parse_json, ".toml": tomllib.loads}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return table


def _check_scalars(value: Any, key: str) -> None:
    """Refuse what both formats can write and no setting can mean: infinity, NaN, half of a surrogate pair."""
    if isinstance(value, dict):
        for name, below in value.items():
            _check_scalars(name, key)
            _check_scalars(below, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for place, below in enumerate(value):
            _check_scalars(below, f"{key}[{place}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}: found {value}, expected a finite number")
    elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{key}: found half of a surrogate pair, expected whole characters")


def _explain(message: str, document: Any, kind: Any, file: Path) -> ConfigError:
    """Say msgspec's error as a person needs it: with the value that was found and the words that would do."""
    place = match["place"] if (match := _PLACE.search(message)) else ""
    in_key = match is not None and match["key"] is not None
    found, expected, key = document, inspect.type_info(kind), ""
    for name, position in _STEP.findall(place):
        found, expected, step = _step(found, expected, name, position)
        key += step
    key = key.lstrip(".")
    if (field := _FIELD.match(message)) and isinstance(struct := _bare(expected), inspect.StructType):
        return _wrong_key(file, key, field["name"], struct)
    if in_key and isinstance(names := _bare(expected), inspect.DictType):
        found, expected = next(name for name in found if not _fits(name, names.key_type)), names.key_type
    remedy = meant(found, _choices(expected)) if isinstance(found, str) else ""
    return ConfigError(f"{file}: {key or 'the document'}: found {quoted(found)}, expected {words(expected)}.", remedy)


def _step(found: Any, expected: inspect.Type, name: str, position: str) -> tuple[Any, inspect.Type, str]:
    """One step down a place such as `.apps[1]`: the value there, its type, and how the step is written."""
    expected = _bare(expected)
    if isinstance(expected, inspect.StructType):
        field = next(field for field in expected.fields if field.encode_name == name)
        return found[name], field.type, f".{name}"
    if isinstance(expected, inspect.DictType):
        # msgspec does not say which
        wrong = next(key for key, value in found.items() if not _fits(value, expected.value_type))
        return found[wrong], expected.value_type, f".{wrong}"
    if isinstance(expected, inspect.VarTupleType | inspect.ListType):
        return found[int(position)], expected.item_type, f"[{position}]"
    raise TypeError(f"no step {name or position} below {expected}")


def _wrong_key(file: Path, key: str, name: str, expected: inspect.StructType) -> ConfigError:
    full = f"{key}.{name}".lstrip(".")
    types = {field.encode_name: field.type for field in expected.fields}
    if name in types:
        return ConfigError(f"{file}: {full}: found nothing, expected {words(types[name])}.")
    return ConfigError(f"{file}: {full}: found a key that is not known here.", nearest(name, types))


def _bare(expected: inspect.Type) -> inspect.Type:
    """The type without what is said about it, and without the null that may stand for it."""
    if isinstance(expected, inspect.Metadata):
        return _bare(expected.type)
    if isinstance(expected, inspect.UnionType):
        return _bare(next(one for one in expected.types if not isinstance(one, inspect.NoneType)))
    return expected


def _fits(value: Any, expected: inspect.Type) -> bool:
    """Whether a name or a value in a dictionary is right: those that people write hold texts or whole numbers."""
    match _bare(expected):
        case inspect.IntType(ge=low, le=high):
            return type(value) is int and (low is None or value >= low) and (high is None or value <= high)
        case inspect.StrType(pattern=pattern):
            return isinstance(value, str) and (pattern is None or re.search(pattern, value) is not None)
        case _:
            return True


def _choices(expected: inspect.Type) -> tuple[str, ...]:
    """The words that would do, where only a few would."""
    bare = _bare(expected)
    return tuple(str(member.value) for member in bare.cls) if isinstance(bare, inspect.EnumType) else ()


def words(expected: inspect.Type) -> str:
    """What is expected, in words, as they end a sentence: `a whole number, at least 1`."""
    match expected:
        case inspect.Metadata(extra_json_schema={"description": str(description)}):
            return description[0].lower() + description[1:].rstrip(".")
        case inspect.Metadata(type=bare):
            return words(bare)
        case inspect.UnionType():
            return words(_bare(expected))
        case inspect.BoolType():
            return "true or false"
        case inspect.EnumType():
            return f"one of: {', '.join(_choices(expected))}"
        case inspect.LiteralType(values=values):
            return " or ".join(quoted(value) for value in values)
        case inspect.IntType(ge=low, le=high):
            return f"a whole number{_range(low, high)}"
        case inspect.FloatType(ge=low, le=high):
            return f"a number{_range(low, high)}"
        case inspect.StrType():
            return "text in quotes"
        case inspect.VarTupleType(item_type=item, min_length=least):
            return _list(item) + (f", at least {least}" if least else "")
        case inspect.StructType(fields=fields):
            return f"an object with keys such as {', '.join(field.encode_name for field in fields[:3])}"
        case inspect.DictType(value_type=value, min_length=least):
            kind = "numbers" if isinstance(_bare(value), inspect.IntType) else "texts"
            return f"an object of names and {kind}" + (f", at least {least}" if least else "")
        case _:
            return "an object"


def _list(item: inspect.Type) -> str:
    match item:
        case inspect.StrType():
            return "a list of texts"
        case _ if isinstance(_bare(item), inspect.StructType):
            return "a list of objects"
        case _:
            return f"a list, each item {words(item)}"


_ENDLESS = 10**15
"""A bound that is there for machines only."""


def _range(low: float | None, high: float | None) -> str:
    if high is None or high >= _ENDLESS:
        return "" if low is None else f", at least {low:g}"
    return f" from {low or 0:g} to {high:.15g}"
