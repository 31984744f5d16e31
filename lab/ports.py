"""Who has a TCP port that we cannot have. Pool and proxy both meet that, and a person wants a name and a PID."""

import contextlib


def holder_of(port: int) -> str | None:
    """Name and PID of a process that listens on a TCP port; None when it is not ours to see."""
    import psutil  # only when something is wrong: the lab starts without it

    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
            with contextlib.suppress(psutil.Error):  # it has just ended
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return None
