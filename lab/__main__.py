"""The command `cgilab`, and `python -m lab`.

Ctrl+C is `lab.cli`'s business. While that is still being imported, and when it is done and the interpreter ends, nobody
could answer it but with a traceback: there it simply ends the process.
"""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Import the command line, then run it."""
    wanted = signal.getsignal(signal.SIGINT)  # ignored, if whoever started it wanted that
    simply = signal.SIG_IGN if wanted is signal.SIG_IGN else signal.SIG_DFL
    signal.signal(signal.SIGINT, simply)
    from lab import cli

    signal.signal(signal.SIGINT, wanted)
    try:
        cli.main()
    finally:
        signal.signal(signal.SIGINT, simply)


if __name__ == "__main__":
    main()
