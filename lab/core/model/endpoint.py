"""What the pool tells the proxy of a worker: who it is, and where it answers."""

from enum import StrEnum

import msgspec


class Wire(StrEnum):
    """What is spoken on a connection to an endpoint."""

    HTTP = "http"
    FASTCGI = "fastcgi"
    CGI = "cgi"


class WorkerId(msgspec.Struct, frozen=True, order=True):
    """One process in the life of a slot. `str()` gives `search/2` as people name it."""

    app: str
    slot: int
    generation: int

    def __str__(self) -> str:
        return f"{self.app}/{self.slot}"


class Endpoint(msgspec.Struct, frozen=True):
    """An address that answers for an app, and the worker behind it."""

    app: str
    worker: WorkerId
    """For `cgi`, which has no workers, slot 0 of generation 0."""
    host: str = ""
    port: int = 0
    path: str = ""
    """A Unix socket; then `host` and `port` are empty."""
    pid: int | None = None
    concurrency: int = 1
    wire: Wire = Wire.HTTP
    shared: bool = False
    """Others have the same address and the kernel chooses among them: its figures say nothing about its worker."""

    @property
    def address(self) -> str | tuple[str, int]:
        """What a connection is made to."""
        return self.path or (self.host, self.port)

    def __str__(self) -> str:
        if self.wire is Wire.CGI:
            return "cgi"
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"
