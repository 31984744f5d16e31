"""doctor says what it tried, in time, and what is missing with the command that installs it."""

import json
import os
import platform
import resource
import stat
import time
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import psutil
import pytest

from lab.config.languages import Language, load, versions
from lab.core.model import Contract
from lab.engine.doctor import ENOUGH_FILES, Report, encoded, examine, examine_kernel, render

LANGUAGES = load()

DETECTED: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "available", "version", "hint"],
    "properties": {
        "name": {"type": "string"},
        "available": {"type": "boolean"},
        "version": {"type": ["string", "null"]},
        "hint": {"type": ["string", "null"]},
    },
}
LANGUAGE = DETECTED | {
    "required": [*DETECTED["required"], "contracts", "versions"],
    "properties": DETECTED["properties"]
    | {
        "contracts": {"type": "array", "items": {"enum": list(Contract)}, "minItems": 1},
        "versions": {"type": "array", "items": {"type": "string"}},
    },
}
PROMISED: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "languages", "tools", "kernel", "problems"],
    "properties": {
        "version": {"const": 1},
        "languages": {"type": "array", "items": LANGUAGE, "minItems": 2},
        "tools": {"type": "array", "items": DETECTED, "minItems": 2},
        "kernel": {"type": "object", "required": ["pidfd", "cgroup", "subreaper", "sock_diag", "open_files"]},
        "problems": {"type": "array", "items": {"type": "string"}},
    },
}


@pytest.fixture(scope="module")
def report() -> Report:
    return examine(LANGUAGES)


def fake_tool(folder: Path, name: str, text: str) -> None:
    """An executable of this name, found first in a PATH that begins with `folder`."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def lacking(language: Language) -> Language:
    return msgspec.structs.replace(language, tools=("no-such-tool",))


def test_the_json_has_the_promised_shape(report: Report) -> None:
    jsonschema.validate(json.loads(encoded(report)), PROMISED)


def test_every_language_of_the_lab_is_examined(report: Report) -> None:
    assert [one.name for one in report.languages] == list(LANGUAGES)
    python = next(one for one in report.languages if one.name == "python")
    assert python.version is not None
    assert python.version.endswith(platform.python_version())


def test_what_is_available_has_a_version_and_what_is_not_has_a_hint(report: Report) -> None:
    for one in (*report.languages, *report.tools):
        assert (one.version is not None) is one.available
        assert (one.hint is None) is one.available


def test_a_missing_language_is_a_problem_with_its_remedy() -> None:
    report = examine({"c": lacking(LANGUAGES["c"])})
    assert report.languages[0].available is False
    assert any("C is missing" in problem and LANGUAGES["c"].hint in problem for problem in report.problems)


def test_a_machine_without_any_language_but_the_labs_own_is_examined_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("lab.config.languages._SBIN", ())
    report = examine(LANGUAGES)
    assert [one.name for one in report.languages if one.available] == ["python"]
    for one in report.languages:
        assert one.available or f"Install it: {LANGUAGES[one.name].hint}" in "\n".join(report.problems)


def test_versions_side_by_side_are_listed_the_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("8.2", "7.4", "8.10"):
        fake_tool(tmp_path, f"php-cgi{version}", f"echo 'PHP {version}.1 (cgi-fcgi)'")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("lab.config.languages._SBIN", ())
    report = examine({"php": LANGUAGES["php"]})
    assert report.languages[0].versions == ("8.10", "8.2", "7.4")
    assert report.languages[0].version == "php-cgi8.10 8.10.1"
    assert "fastcgi cgi  versions: 8.10, 8.2, 7.4" in render(report)


def test_folders_in_the_path_that_cannot_be_read_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tool(tmp_path, "php-cgi8.2", "echo 'PHP 8.2.1 (cgi-fcgi)'")
    too_long = tmp_path / ("x" * 300)  # an error for root too, who may read every folder that there is
    monkeypatch.setenv("PATH", f"{tmp_path / 'none'}:{too_long}:{tmp_path / 'php-cgi8.2'}:{tmp_path}")
    assert versions(LANGUAGES["php"])[-1:] == ("8.2",)


def test_each_language_tells_the_contracts_that_it_can_keep(report: Report) -> None:
    for one in report.languages:
        assert one.contracts == tuple(LANGUAGES[one.name].start)
        assert not one.available or " ".join(one.contracts) in render(report)


def test_kernel_facts_are_the_machines(report: Report) -> None:
    kernel = report.kernel
    assert kernel.release == platform.release()
    assert kernel.cores == len(os.sched_getaffinity(0))
    assert (kernel.open_files, kernel.open_files_max) == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert kernel.cgroup in {"v1", "v2", "none"}


def test_what_these_tests_rest_on_is_found_to_work(report: Report) -> None:
    kernel = report.kernel
    assert (kernel.pidfd, kernel.subreaper, kernel.parent_death_signal, kernel.sock_diag) == (True, True, True, True)


def test_a_refused_system_call_is_a_no_and_not_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert examine_kernel().pidfd is False
    assert any("refuses pidfd" in problem for problem in examine(LANGUAGES).problems)


def test_few_open_files_are_a_problem() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        problems = examine(LANGUAGES).problems
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert any("256 open files" in problem and f"ulimit -n {ENOUGH_FILES}" in problem for problem in problems)


def test_a_folder_that_cannot_be_made_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert any(f"Found {tmp_path / 'file'}, expected a folder" in problem for problem in examine(LANGUAGES).problems)


def test_tools_that_hang_are_given_up_and_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wrk", "nginx", "tmux"):
        fake_tool(tmp_path, name, "exec sleep 30")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("lab.config.languages.VERSION_TIMEOUT", 3.0)
    began = time.monotonic()
    tools = {one.name: one for one in examine(LANGUAGES).tools}
    assert time.monotonic() - began < 8.5  # one after another they would take 9
    assert not tools["wrk"].available
    assert tools["wrk"].hint is not None


def test_the_table_is_plain_text_that_names_everything(report: Report) -> None:
    table = render(report)
    assert table.isascii()
    assert "\x1b" not in table
    assert all(one.name in table for one in (*report.languages, *report.tools))
    assert all(problem in table for problem in report.problems)
    assert all(len(line) <= 120 for line in table.splitlines())


def test_examining_leaves_no_process_and_no_descriptor_behind(report: Report) -> None:
    this = psutil.Process()
    before = this.num_fds(), {child.pid for child in this.children(recursive=True)}
    examine(LANGUAGES)
    assert (this.num_fds(), {child.pid for child in this.children(recursive=True)}) == before
