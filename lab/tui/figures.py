"""Numbers as people read them: short, with their unit, never wider than they need. None is `-`: not measured."""

import time

NONE = "-"


def milliseconds(value: float | None) -> str:
    """`0.4 ms`, `12 ms`, `1.2 s`."""
    if value is None:
        return NONE
    if value >= 1000:
        return seconds(value / 1000)
    return f"{plain(value)} ms"


def plain(value: float | None) -> str:
    """`0.42`, `4.2`, `42`, `4200`: two figures where it is small, no fraction where it is large."""
    if value is None:
        return NONE
    if value < 0.095:
        return f"{value:.2f}" if value else "0"
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def seconds(value: float | None) -> str:
    """`0.2 s`, `42 s`, `3:07`, `2:03:07`."""
    if value is None:
        return NONE
    if value < 9.95:
        return f"{max(value, 0.0):.1f} s"
    if value < 59.5:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate(value: float | None) -> str:
    """Something a second, without the unit: `0`, `4.8`, `312`, `12.3k`."""
    if value is None:
        return NONE
    if value >= 9950:
        return f"{value / 1000:.1f}k"
    return "0" if value < 0.05 else plain(value)


def size(value: int | None) -> str:
    """Bytes in powers of 1024: `812 K`, `1.8 M`."""
    if value is None:
        return NONE
    amount, unit = float(value), "B"
    for larger in "KMGT":
        if amount < 1000:
            break
        amount, unit = amount / 1024, larger
    return f"{plain(amount)} {unit}"


def percent(part: float, whole: float) -> str:
    """`0 %`, `0.3 %`, `12 %`; nothing of nothing is `0 %`."""
    share = 100 * part / whole if whole else 0.0
    return "0 %" if share == 0 else f"{plain(share)} %"


def clock(wall: float) -> str:
    """Local time of day to the millisecond: `12:04:31.204`."""
    return f"{time.strftime('%H:%M:%S', time.localtime(wall))}.{int(wall * 1000) % 1000:03}"
