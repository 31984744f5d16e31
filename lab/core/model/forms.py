"""What a value in a file may look like: names, paths, numbers and their bounds. Every spec is made of these."""

from typing import Annotated

import msgspec
from msgspec import Meta

# A bare `$` would also match before a line feed at the end.
Name = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}(?!\n)$", description="A name of lower-case letters, digits and hyphens.")
]
Route = Annotated[
    str, Meta(pattern=r'^/[!"$->@-~]*(?!\n)$', description="A path that begins with /, without ?, # and spaces.")
]
Target = Annotated[
    str,
    Meta(pattern=r'^/[!"$-~]*(?!\n)$', description="A path that begins with /, without # and spaces; ? may follow."),
]
# An empty one would mean every address.
Host = Annotated[str, Meta(pattern=r"^[!-~]+(?!\n)$", description="An address or a name of this machine.")]
Seconds = Annotated[float, Meta(ge=0, le=365 * 24 * 3600)]
# Numbers without a bound of their own have one that the kernel can take and JSON can say.
Count = Annotated[int, Meta(ge=0, le=10**15)]
Workers = Annotated[int, Meta(ge=0, le=1000)]
Some = Annotated[int, Meta(ge=1, le=10**15)]
Protocol = Annotated[
    str,
    Meta(
        pattern=r"^(?!h2c|http|tls)[a-z0-9!#$%&'*+.^_`|~/-]{1,32}(?!\n)$",
        description="A protocol's name in lower case; not HTTP or TLS, whose requests would pass by the proxy unread.",
    ),
]
Version = Annotated[str, Meta(pattern=r"^(\d+(\.\d+)*)?(?!\n)$", description="A version such as 8.2, in quotes.")]
Percent = Annotated[float, Meta(ge=0, le=100)]
Niceness = Annotated[int, Meta(ge=0, le=19)]
Network = Annotated[
    str, Meta(pattern=r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?(?!\n)$", description="An address, or a network as 10.0.0.0/8.")
]
Port = Annotated[int, Meta(ge=0, le=65535)]
Weight = Annotated[int, Meta(ge=0, le=1_000_000)]
HostPattern = Annotated[
    str,
    Meta(
        pattern=r"^((\*\.)?[0-9A-Za-z_\-]+(\.[0-9A-Za-z_\-]+)*|\[[0-9A-Fa-f:.]+\])?(?!\n)$",
        description="A host such as example.org, or *.example.org, without a port.",
    ),
]
Method = Annotated[
    str, Meta(pattern=r"^[A-Z][A-Z0-9\-]*(?!\n)$", description="A method in capital letters, such as GET.")
]
Rewritten = Annotated[
    str,
    Meta(
        pattern=r'^(/[!"$->@-~]*)?(?!\n)$',
        description="A path that begins with /, without ?, # and spaces; or nothing.",
    ),
]
Share = Annotated[int, Meta(ge=1, le=100)]
Rate = Annotated[float, Meta(ge=0, le=1e6)]
Burst = Annotated[int, Meta(ge=1, le=10**6)]


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value that people write in files: unknown keys are errors."""
