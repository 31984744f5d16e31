"""Rows become strips: exactly as wide as asked, and free of anything that could move a cursor."""

from collections.abc import Sequence

import pytest
from reading import seen
from textual.app import App, ComposeResult

from lab.tui.painting import Painted, Row, fit, plain


class Words(Painted):
    """Shows the rows it was given, and counts how often each line was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.text: Sequence[str] = ("one", "two", "three")
        self.asked: list[int] = []

    def rows(self, width: int) -> Sequence[Row]:
        return [((text, "text"),) for text in self.text]

    def _row(self, y: int) -> Row:
        self.asked.append(y)
        return super()._row(y)


class Page(App[None]):
    CSS = "Words { height: 3; }"

    def compose(self) -> ComposeResult:
        yield Words()


async def test_only_rows_that_changed_are_painted_again() -> None:
    async with Page().run_test(size=(20, 5)) as pilot:
        words = pilot.app.query_one(Words)
        words.asked.clear()
        words.text = ("one", "zwei", "three")
        words.repaint()
        await pilot.pause()
        assert set(words.asked) == {1}
        assert seen(words) == "one\nzwei\nthree"


async def test_rows_that_do_not_fit_are_counted() -> None:
    async with Page().run_test(size=(20, 5)) as pilot:
        words = pilot.app.query_one(Words)
        words.text = ("one", "two", "three", "four", "five")
        words.repaint()
        await pilot.pause()
        assert seen(words).splitlines()[-1] == "  … 3 more lines"


@pytest.mark.parametrize(
    ("raw", "shown"), [("ok", "ok"), ("a\x1b[2Jb", "a?[2Jb"), ("tab\tnl\n", "tab?nl?"), ("é ● 日", "é ● 日")]
)
def test_what_moves_a_cursor_never_reaches_the_terminal(raw: str, shown: str) -> None:
    assert plain(raw) == shown


@pytest.mark.parametrize("width", range(8))
def test_a_text_that_is_fitted_is_exactly_as_wide_as_asked(width: int) -> None:
    assert all(len(fit("hello", width, more)) == width for more in ("…", "..."))
