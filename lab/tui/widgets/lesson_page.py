"""A lesson's page, drawn line by line: what to read, what to choose, what was seen, and what the checks say.

A Markdown widget takes half a second to change; this one knows three inline marks and changes in milliseconds.
"""

import re
from collections.abc import Iterator, Sequence

from textual.events import Click
from textual.message import Message

from lab.learning import prose
from lab.learning.checks import Verdict
from lab.learning.page import CheckView, Page, Phase
from lab.tui.glyphs import Glyphs
from lab.tui.painting import Painted, Row, length

LETTERS = "abcdefghi"
"""The keys of choices. Digits switch modes."""
_MARKS = {"": "text", "`": "accent", "**": "strong", "*": "head"}
_WORD = re.compile(r"(?:PID \d+|\d[\d.,]* (?:ms|s|min|kills?|times?|requests?)\b)\S*|\S+")
"""A word, or what is one to the reader: a number and its unit stay on one line."""
_FACTS, _FACTS_IN_A_HURRY = 5, 1
"""How many of the newest facts are shown: while somebody reads, and while a clock runs."""
_MAX_WIDTH = 88
"""Longer lines are hard to read."""


def wrap(text: str, width: int, plain_role: str = "text") -> list[Row]:
    """`text` with its inline marks as rows of at most `width` cells. Four leading spaces keep a line as it is."""
    if text.startswith("    "):
        return [((text, "accent"),)]
    rows: list[Row] = []
    line: Row = ()
    for word, role, glued in _words(text, plain_role):
        gap = " " if line and not glued else ""
        if gap and length(line) + 1 + len(word) > width:
            rows.append(line)
            line, gap = (), ""
        line = _joined(line, gap + word, role)
    return [*rows, line]


def rows_of(page: Page, chosen: int, width: int, glyphs: Glyphs) -> list[Row]:
    """The whole page. `chosen` is the number of the choice under the cursor."""
    room = max(20, min(width, _MAX_WIDTH))
    blocks = [
        *(_paragraph(text, room, glyphs) for text in page.paragraphs),
        *(wrap(text, room, "strong") for text in page.question),
        list(_choices(page.choices, chosen, room, glyphs)),
        wrap(page.reply, room, "good" if page.phase is Phase.DONE else "warn") if page.reply else [],
        list(_facts(page, room, glyphs)),
        [_check(check, glyphs) for check in page.checks] if page.phase is Phase.DO else [],
        wrap(page.hint, room, "warn") if page.hint else [],
    ]
    return [row for block in blocks if block for row in (*block, ())][:-1]


class LessonPage(Painted):
    """The page that `show` was given last, and a cursor on its choices."""

    HELP = (
        "The lesson. It asks before it shows: choose with a letter, or with the arrow keys and Enter. Then do what the "
        "page says; the keys are in the row below. What is claimed here was measured on this machine a moment ago.\n\n"
        "Esc leaves the lesson and brings the lab back to what it was. 1 goes to the lab and leaves the lesson open."
    )
    can_focus = True

    class Chosen(Message):
        """A choice was clicked."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self) -> None:
        super().__init__()
        self._text = ""
        self._page: Page | None = None
        self.cursor = 0
        """The number of the choice under the cursor."""

    def say(self, text: str) -> None:
        """Show this text instead of a page."""
        self._text, self._page = text, None
        self.repaint()

    def show(self, page: Page) -> None:
        """Show `page`. The cursor goes to the first choice when the choices are others than before."""
        if self._page is None or page.choices != self._page.choices:
            self.cursor = 0
        self._page = page
        self.repaint()

    def move(self, by: int) -> None:
        """Move the cursor over the choices, around the ends."""
        if self._page is not None and self._page.choices:
            self.cursor = (self.cursor + by) % len(self._page.choices)
            self.repaint()

    def on_click(self, event: Click) -> None:
        """A click on a choice chooses it."""
        letters = self._row(event.y)[1:2]
        if self._page is not None and self._page.choices and letters and letters[0][0].strip() in LETTERS:
            self.post_message(self.Chosen(LETTERS.index(letters[0][0].strip())))

    def rows(self, width: int) -> Sequence[Row]:
        if self._page is None:
            return [row for text in self._text.split("\n") for row in wrap(text, max(20, min(width, _MAX_WIDTH)))]
        return rows_of(self._page, self.cursor, width, self.glyphs)


def _words(text: str, plain_role: str) -> Iterator[tuple[str, str, bool]]:
    """Words with their roles; the third says whether a word is glued to the one before, as a comma after a mark is."""
    spaced = True
    for mark, stretch in prose.spans(text):
        role = plain_role if not mark else _MARKS[mark]
        for place, word in enumerate(_WORD.findall(stretch)):
            yield word, role, place == 0 and not spaced and not stretch[0].isspace()
        spaced = stretch[-1].isspace()


def _joined(line: Row, text: str, role: str) -> Row:
    """`line` with `text` behind it, in the last span where the role is the same."""
    if line and line[-1][1] == role:
        return (*line[:-1], (line[-1][0] + text, role))
    return (*line, (text, role))


def _paragraph(text: str, width: int, glyphs: Glyphs) -> list[Row]:
    """A paragraph's rows; an item of a list hangs on its dot."""
    rows: list[Row] = []
    for line in text.split("\n"):
        if line.startswith("- "):
            first, *others = wrap(line[2:], width - 2)
            rows += [((f"{glyphs.dot} ", "dim"), *first), *((("  ", "text"), *row) for row in others)]
        else:
            rows += wrap(line, width)
    return rows


def _choices(choices: Sequence[str], chosen: int, width: int, glyphs: Glyphs) -> Iterator[Row]:
    for number, choice in enumerate(choices):
        here = number == chosen
        first, *others = wrap(choice, width - 6, "strong" if here else "text")
        yield ((f"{glyphs.cursor if here else ' '} ", "accent"), (f"{LETTERS[number]}  ", "accent"), *first)
        yield from ((("     ", "text"), *row) for row in others)


def _facts(page: Page, width: int, glyphs: Glyphs) -> Iterator[Row]:
    """The newest facts while something is being done; afterwards the page itself quotes them."""
    newest = _FACTS if page.remaining_s is None else _FACTS_IN_A_HURRY
    for fact in page.facts[-newest:] if page.phase is Phase.DO else ():
        first, *others = wrap(fact, width - 2, "head")
        yield ((f"{glyphs.dot} ", "dim"), *first)
        yield from ((("  ", "text"), *row) for row in others)


def _check(check: CheckView, glyphs: Glyphs) -> Row:
    sign, word, role = {
        Verdict.PASS: (glyphs.ready, "passed", "good"),
        Verdict.FAIL: (glyphs.starting, "not yet", "dim"),
        Verdict.UNKNOWN: (glyphs.waiting, "cannot tell", "warn"),
    }[check.verdict]
    return ((f"{sign} {word}: ", role), (check.label, role))
