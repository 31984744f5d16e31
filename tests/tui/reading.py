"""What stands on the screen, as text: for tests that ask what a person could read."""

from collections.abc import Iterable

from textual.widget import Widget

from lab.tui.painting import Row


def read(rows: Iterable[Row]) -> list[str]:
    """Rows of a widget as lines of text."""
    return ["".join(text for text, _ in row).rstrip() for row in rows]


def seen(widget: Widget) -> str:
    """What a widget shows now, line by line, exactly as it was painted."""
    return "\n".join(widget.render_line(y).text.rstrip() for y in range(widget.size.height))
