"""What is said on the control socket: one JSON document a line, both ways. Derived from the `Lab` contract itself.

    server  {"cgilab": 1, "version": "0.1.0", "name": "lab", "pid": 4100, "read_only": false}
    client  {"id": 1, "do": "scale", "args": {"app": "search", "workers": 4}}
    server  {"id": 1, "ok": {"app": "search", "before": 3, "after": 4}}
    client  {"id": 2, "do": "subscribe", "args": {"since": 1, "hz": 5}}
    server  {"id": 2, "ok": null}
    server  {"push": {"snapshot": {...}, "events": {"events": [...], "next": 17, "missed": 0}}}
    server  {"id": 3, "error": {"code": "unknown_target", "message": "...", "remedy": "..."}}

`hello` with `{"read_only": true}` makes this one connection look only.
"""

import inspect
from typing import Any, TypeVar, get_type_hints

import msgspec

from lab.core.errors import LabError, ProtocolError, from_code
from lab.core.events import EventBatch
from lab.core.snapshot import LabSnapshot
from lab.engine.lab import Lab

T = TypeVar("T")

VERSION = 1
MAX_LINE = 4 * 1024 * 1024
"""Bytes of one line, the newline included."""
LOOKING = frozenset({"snapshot", "events", "spec", "output", "standings", "traces"})
"""Methods that change nothing."""


class Greeting(msgspec.Struct, frozen=True):
    """The server's first line."""

    cgilab: int
    version: str
    name: str
    pid: int
    read_only: bool


class Request(msgspec.Struct, frozen=True):
    """A client's line. `do` is a method of `Lab`, `hello` or `subscribe`."""

    id: int
    do: str
    args: msgspec.Raw = msgspec.Raw(b"{}")


class Failure(msgspec.Struct, frozen=True):
    """A `LabError` on its way."""

    code: str
    message: str
    remedy: str = ""

    @classmethod
    def of(cls, error: LabError) -> "Failure":
        return cls(error.code, error.message, error.remedy)

    def error(self) -> LabError:
        """The typed error again."""
        return from_code(self.code, self.message, self.remedy)


class Push(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a subscriber gets, at most `hz` times a second."""

    events: EventBatch
    snapshot: LabSnapshot | None = None


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the server after its greeting: an answer to a request, or a push."""

    id: int | None = None
    ok: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: Failure | None = None
    push: Push | None = None


class Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `hello`."""

    read_only: bool = False


class Subscribe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `subscribe`: the cursor to begin at, pushes a second (0.1 to 10), and whether snapshots come too."""

    since: int = 0
    hz: float = 5.0
    snapshots: bool = True


class Method(msgspec.Struct, frozen=True):
    """A method of `Lab` as it travels."""

    name: str
    args: type[msgspec.Struct]

    def arguments(self, raw: msgspec.Raw) -> dict[str, Any]:
        """The checked arguments. Raises `ProtocolError`."""
        return msgspec.structs.asdict(decode(raw, self.args, f"the arguments of {self.name}"))


def _method(name: str) -> Method:
    function = getattr(Lab, name)
    hints = get_type_hints(function)
    fields: list[Any] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        field = (parameter.name, hints[parameter.name])
        fields.append(field if parameter.default is inspect.Parameter.empty else (*field, parameter.default))
    args = msgspec.defstruct(f"{name.title()}Args", fields, forbid_unknown_fields=True, kw_only=True)
    return Method(name, args)


METHODS: dict[str, Method] = {name: _method(name) for name in vars(Lab) if not name.startswith("_") and name != "close"}
"""Every method that can be asked for. `close` is the client's own: it hangs up."""


def decode(line: bytes | msgspec.Raw, kind: type[T], what: str) -> T:
    """`line` as a `kind`. Raises `ProtocolError` that says what is wrong with it."""
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"Cannot read {what}: {error}.") from error
