"""The command `cgilab`, and `python -m lab`. Its own few lines see that Ctrl+C ends it without a traceback even while
it is still being imported; from then on `lab.cli` does."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Import the command line, then run it."""
    caught = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored, as by nohup
    if caught:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lab import cli

    if caught:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
