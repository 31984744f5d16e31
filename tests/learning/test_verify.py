"""The verification finds what is wrong with a lesson; and the lab's own lesson holds."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from lab.core.errors import UnknownTargetError
from lab.core.snapshot import LabSnapshot
from lab.engine.local import LocalLab
from lab.learning import verify

Write = Callable[..., Path]
MakeLab = Callable[[], Awaitable[LocalLab]]

CHECK = "worker_replaced(app='search', cause='killed') and not alive(death.pid)"


async def test_the_first_lesson_holds_from_end_to_end(make_lab: MakeLab) -> None:
    report = await verify.verify(make_lab, "first-look")
    assert report.ok, verify.render(report)
    assert report.lessons[0].steps == 10
    assert report.lessons[0].seconds < verify.MAX_SECONDS


async def test_the_first_lesson_holds_where_the_lab_speaks_tls(make_tls_lab: MakeLab) -> None:
    report = await verify.verify(make_tls_lab, "first-look")
    assert report.ok, verify.render(report)


async def test_an_address_at_which_nobody_can_ask_is_told(make_tls_lab: MakeLab, write_lesson: Write) -> None:
    class Distrusted(LocalLab):
        """It does not say which certificate is to be trusted."""

        async def snapshot(self) -> LabSnapshot:
            return msgspec.structs.replace(await super().snapshot(), certificate=None)

    async def make() -> LocalLab:
        lab = await make_tls_lab()
        lab.__class__ = Distrusted
        return lab

    report = await verify.verify(make, folder=write_lesson())
    assert "/api/search: cannot be asked from outside: [SSL: CERTIFICATE_VERIFY_FAILED]" in verify.render(report)


async def test_a_short_lesson_that_holds_is_ok(make_lab: MakeLab, write_lesson: Write) -> None:
    report = await verify.verify(make_lab, folder=write_lesson())
    assert report.ok, verify.render(report)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (CHECK, f"not ({CHECK})", "found pass before its step was done"),
        ('expr = "worker_replaced', 'expr = "measure.heal_ms < 5000 and worker_replaced', "found unknown before"),
        ("died by {{ death.signal }}", "died, {{ measure.out_ms }}", "quotes what was not measured"),
        ("died by {{ death.signal }}", "died by {{ death.sinal }}", "sinal"),
        (
            "[[step]]",
            '[invariant]\nalways = ["measure.deaths == 0"]\n\n[[step]]',
            "'measure.deaths == 0' does not hold",
        ),
        ("right = 2", "right = 3", "2 options"),
        ('route = "/api/search"', 'route = "/pool-status"', "expected another route"),
    ],
    ids=[
        "inverted check",
        "vague check",
        "unmeasured quote",
        "unknown part",
        "broken invariant",
        "unreadable",
        "hidden route",
    ],
)
async def test_a_wrong_lesson_turns_the_verification_red(
    make_lab: MakeLab, write_lesson: Write, old: str, new: str, found: str
) -> None:
    report = await verify.verify(make_lab, folder=write_lesson(old, new), patience=3.0)
    assert not report.ok
    assert found in verify.render(report)
    assert "FAILED" in verify.render(report)


async def test_a_walkthrough_that_does_nothing_does_not_pass(make_lab: MakeLab, write_lesson: Write) -> None:
    report = await verify.verify(make_lab, folder=write_lesson('walk = ["kill"]', "walk = []"), patience=0.5)
    assert "check 'gone': found fail" in verify.render(report)


async def test_an_unknown_lesson_is_the_callers_error(make_lab: MakeLab) -> None:
    with pytest.raises(UnknownTargetError):
        await verify.verify(make_lab, "frist-look")
