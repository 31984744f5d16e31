"""Texts are cut, filled and shown as their author meant them."""

import pytest

from lab.learning import prose
from lab.learning.expressions import Facts

TEXT = """# The title

## one: First step
A paragraph
over two lines.

    kill -9 {{ target.pid }}
    ps

Another:
- an item
  of a list
- and one more

## ask-why
Why?
- Because
  it is.
  > No,
  > not so.
- Else
  > Yes.
"""


def test_sections_have_titles_joined_paragraphs_and_lines_kept_as_they_are() -> None:
    section = prose.parse(TEXT).sections["one"]
    assert section.title == "First step"
    assert section.paragraphs == (
        "A paragraph over two lines.",
        "    kill -9 {{ target.pid }}\n    ps",
        "Another:\n- an item of a list\n- and one more",
    )


def test_every_option_of_a_question_has_its_reply() -> None:
    options = prose.parse(TEXT).sections["ask-why"].options
    assert [(one.text, one.reply) for one in options] == [("Because it is.", "No, not so."), ("Else", "Yes.")]


@pytest.mark.parametrize(
    "text", ["no title", "# t\n## a\n## a\n", "# t\n## Not A Key\n", "# t\n### too deep\n"], ids=str.split
)
def test_a_text_that_cannot_be_cut_says_where(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d|no title"):
        prose.parse(text)


def test_templates_quote_values_with_fitting_digits() -> None:
    names = {"m": Facts(ms=4.698, much=1234.5, pids=(1, 2), none=None)}
    assert prose.fill("{{ m.ms }} {{m.much}} {{ m.pids }} {{ m.none }}", names) == "4.7 1,234 1, 2 (not seen)"


def test_counted_nouns_agree_with_their_number() -> None:
    assert [prose.counted(n, "kill") for n in (0, 1, 2)] == ["no kills", "1 kill", "2 kills"]


def test_marks_are_told_apart_from_the_words_they_mark() -> None:
    text = "Press **r**, or `ps 4121`: *now*. 2 * 3 * 4"
    assert prose.plain(text) == "Press r, or ps 4121: now. 2 * 3 * 4"
    assert ("**", "r") in prose.spans(text)
    assert ("`", "ps 4121") in prose.spans(text)
