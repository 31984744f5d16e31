"""The shapes of what the lab reads and writes, as JSON Schemas that editors and other programs can use."""

from inspect import cleandoc
from typing import Any

import msgspec


def published(kind: Any, title: str) -> str:
    """The JSON Schema of `kind` as a file has it: with its dialect and title, indented, a line feed at the end."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return msgspec.json.format(msgspec.json.encode(head | _cleaned(msgspec.json.schema(kind)))).decode() + "\n"


def _cleaned(schema: Any) -> Any:
    """The same, its descriptions without the indentation of a docstring, which only some versions of Python keep."""
    if isinstance(schema, dict):
        return {
            key: cleandoc(value) if key == "description" and isinstance(value, str) else _cleaned(value)
            for key, value in schema.items()
        }
    return [_cleaned(one) for one in schema] if isinstance(schema, list) else schema
