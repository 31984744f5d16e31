"""Every error that a person may see: what was found, what was expected, what to do about it.

An error has a `code`, which is its identity on the control socket, so that the same type arrives on the other side.
"""

from typing import ClassVar


class LabError(Exception):
    """Base of all errors the lab raises on purpose. `str(error)` is one or two plain sentences for a person.

    `message` says what was found and what was expected; `remedy` says what to do next and may be empty.
    """

    code: ClassVar[str] = "lab"

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class ConfigError(LabError):
    """A file the user wrote is wrong. The message names file, key, what was found and what was expected."""

    code = "config"


class UnknownTargetError(LabError):
    """A PID, app or slot that this lab does not have."""

    code = "unknown_target"


class NotPossibleError(LabError):
    """The command is understood, but not possible in this state or under this policy."""

    code = "not_possible"


class ReadOnlyError(LabError):
    """This lab, or this connection to it, only looks."""

    code = "read_only"


class DeadlineError(LabError):
    """A command did not finish within its deadline."""

    code = "deadline"


class PortInUseError(LabError):
    """The listening port belongs to another process."""

    code = "port_in_use"


class NameInUseError(LabError):
    """A lab of this name already runs."""

    code = "name_in_use"


class NoLabError(LabError):
    """No lab is running, or it went away while it was spoken to."""

    code = "no_lab"


class ProtocolError(LabError):
    """The other side of the control socket, or of the fork server's, said something that is not in the protocol."""

    code = "protocol"


class UnavailableError(LabError):
    """Something this machine lacks: a compiler, an interpreter, a tool. The remedy is the command that installs it."""

    code = "unavailable"


class BuildError(LabError):
    """A program did not compile. The message carries the compiler's first error."""

    code = "build"


class IllegalTransitionError(LabError):
    """A state machine was asked for a step that its table does not have: a defect of the lab."""

    code = "illegal_transition"


_TYPES: tuple[type[LabError], ...] = (LabError, *LabError.__subclasses__())
BY_CODE: dict[str, type[LabError]] = {error.code: error for error in _TYPES}


def from_code(code: str, message: str, remedy: str = "") -> LabError:
    """The typed error for `code`; an unknown code becomes a plain `LabError`."""
    return BY_CODE.get(code, LabError)(message, remedy)
