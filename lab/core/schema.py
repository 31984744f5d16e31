"""The shapes of what the lab reads and writes, as JSON Schemas that editors and other programs can use."""

from typing import Any

import msgspec


def published(kind: Any, title: str) -> str:
    """The JSON Schema of `kind` as a file has it: with its dialect and title, indented, a line feed at the end."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return msgspec.json.format(msgspec.json.encode(head | msgspec.json.schema(kind))).decode() + "\n"
