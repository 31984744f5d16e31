"""The two sets of signs: one cell each, every state apart from the others, ASCII where nothing else can be shown."""

from dataclasses import fields

import pytest
from rich.cells import cell_len

from lab.core.states import ServiceState, WorkerState
from lab.tui.glyphs import ASCII, UNICODE, Glyphs, of_terminal
from lab.tui.looks import FROZEN, HEALTH_LOOKS, LOOKS, SERVICE_LOOKS


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
def test_every_sign_is_one_cell_wide(glyphs: Glyphs) -> None:
    signs = [getattr(glyphs, field.name) for field in fields(Glyphs) if field.name not in ("braille", "more")]
    assert all(cell_len(one) == 1 for sign in signs for one in sign)


def test_the_ascii_set_is_ascii() -> None:
    signs = [getattr(ASCII, field.name) for field in fields(Glyphs) if field.name != "braille"]
    assert all(sign.isascii() for sign in signs)


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
def test_no_two_states_share_sign_and_word(glyphs: Glyphs) -> None:
    looks = [*LOOKS.values(), FROZEN, *HEALTH_LOOKS.values()]
    assert set(LOOKS) == set(WorkerState)
    assert len({(look.sign(glyphs), look.word) for look in looks}) == len(looks)
    assert len({look.word for look in looks}) == len(looks)


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
def test_no_two_states_of_a_process_beside_the_pool_look_alike(glyphs: Glyphs) -> None:
    assert set(SERVICE_LOOKS) == set(ServiceState)
    assert len({(look.sign(glyphs), look.word) for look in SERVICE_LOOKS.values()}) == len(ServiceState)


@pytest.mark.parametrize(
    ("environ", "encoding", "chosen"),
    [
        ({"TERM": "xterm-256color"}, "utf-8", UNICODE),
        ({"TERM": "xterm-256color"}, "UTF8", UNICODE),
        ({"TERM": "linux"}, "utf-8", ASCII),
        ({"TERM": "dumb"}, "utf-8", ASCII),
        ({"TERM": "xterm"}, "ISO-8859-1", ASCII),
        ({}, "ascii", ASCII),
    ],
)
def test_a_terminal_gets_what_it_can_show(environ: dict[str, str], encoding: str, chosen: Glyphs) -> None:
    assert of_terminal(environ, encoding) is chosen
