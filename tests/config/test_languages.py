"""Every language is a few lines of facts, and what this machine lacks is told with the command that installs it."""

import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from lab.config.languages import Language, ask_version, detect, fill, find_tool, load, versions
from lab.core.errors import UnavailableError
from lab.core.model import Contract

LANGUAGES = load()
PLACES = {"tool": "t", "source": "s", "output": "/output", "program": "p", "port": "1", "socket": "u", "config": "c"}


def lacking(language: Language) -> Language:
    return msgspec.structs.replace(language, tools=("no-such-tool",))


def script(folder: Path, text: str, name: str = "tool") -> str:
    """An executable shell script."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_every_template_can_be_filled(language: Language) -> None:
    assert fill(language.version, tool="t")
    assert fill(language.tools, version="1.2")
    built = fill(language.build or (), **PLACES)
    assert not built or (any(word.endswith("/output") for word in built) and "s" in built)
    assert all(suffix.startswith(".") for suffix in language.files)
    assert language.hint


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_every_start_leads_to_the_address_that_its_contract_names(language: Language) -> None:
    places = {Contract.HTTP_PORT: "1", Contract.HTTP_UNIX: "u"}
    for contract, template in language.start.items():
        assert places.get(contract, "") in (*fill(template, **PLACES), "")


def test_a_template_with_a_place_that_nobody_fills_is_refused() -> None:
    with pytest.raises(KeyError):
        fill(("{nonsense}",))


def test_python_is_the_labs_own_interpreter() -> None:
    assert find_tool(LANGUAGES["python"]) == sys.executable


def test_the_first_tool_that_is_installed_is_taken(tmp_path: Path) -> None:
    tool = script(tmp_path, "echo tool 1.2.3")
    language = msgspec.structs.replace(LANGUAGES["c"], tools=("no-such-tool", tool, "cc"))
    assert find_tool(language) == tool


def side_by_side(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Language:
    """A language with these tools, and no others, in PATH."""
    for name in names:
        script(folder, "exit 0", name)
    monkeypatch.setenv("PATH", str(folder))
    return msgspec.structs.replace(LANGUAGES["php"], tools=("odd-cgi{version}",))


def test_a_version_is_found_by_the_name_of_its_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language = side_by_side(tmp_path, monkeypatch, "odd-cgi", "odd-cgi8.2", "odd-cgi8.10", "odd-cgi8.x", "odd-cgix9")
    assert versions(language) == ("8.10", "8.2")
    assert find_tool(language, "8.2") == str(tmp_path / "odd-cgi8.2")
    assert find_tool(language) == str(tmp_path / "odd-cgi")


def test_without_a_default_the_newest_version_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language = side_by_side(tmp_path, monkeypatch, "odd-cgi8.2", "odd-cgi8.10")
    assert find_tool(language) == str(tmp_path / "odd-cgi8.10")


def test_a_missing_version_is_told_with_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language = side_by_side(tmp_path, monkeypatch, "odd-cgi8.2", "odd-cgi8.10")
    with pytest.raises(UnavailableError) as caught:
        find_tool(language, "7.4")
    assert caught.value.message == "PHP 7.4 is not installed; found: 8.10, 8.2."


def test_a_missing_tool_is_unavailable_with_the_install_command_as_remedy() -> None:
    with pytest.raises(UnavailableError) as caught:
        find_tool(lacking(LANGUAGES["c"]))
    assert "no-such-tool" in caught.value.message
    assert LANGUAGES["c"].hint in caught.value.remedy


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_what_is_installed_is_detected_with_its_version(language: Language) -> None:
    try:
        find_tool(language)
    except UnavailableError as missing:
        pytest.skip(str(missing))
    found = detect(language)
    assert found.available
    assert found.hint is None
    assert found.version is not None
    said = subprocess.run(fill(language.version, tool=find_tool(language)), capture_output=True, check=True, text=True)
    assert found.version.split()[1] in said.stdout


def test_what_is_missing_is_detected_with_its_hint() -> None:
    found = detect(lacking(LANGUAGES["c"]))
    assert (found.available, found.version, found.hint) == (False, None, LANGUAGES["c"].hint)


def test_a_compiler_without_what_runs_its_programs_is_not_enough(tmp_path: Path) -> None:
    compiler = script(tmp_path, "echo javac 17.0.1")
    java = msgspec.structs.replace(LANGUAGES["java"], tools=(compiler,))
    with_runtime = msgspec.structs.replace(java, start={Contract.HTTP_PORT: ("sh", "{program}")})
    without = msgspec.structs.replace(java, start={Contract.HTTP_PORT: ("no-such-java", "{program}")})
    assert detect(with_runtime).available
    assert (detect(without).available, detect(without).hint) == (False, LANGUAGES["java"].hint)
    with pytest.raises(UnavailableError, match="run in no-such-java"):
        find_tool(without)


def test_lua_without_its_sockets_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUA_PATH_5_4", "/nowhere/?.lua")
    monkeypatch.setenv("LUA_CPATH_5_4", "/nowhere/?.so")
    found = detect(LANGUAGES["lua"])
    assert not found.available
    assert "lua-luv" in str(found.hint)


SAYINGS = {
    "gcc": ("cc (Debian 12.2.0-14) 12.3.1", "tool 12.3.1"),
    "curl": ("curl 7.88.1 (x86_64-pc-linux-gnu) libcurl/7.88.2 zlib/1.2.13", "tool 7.88.1"),
    "clang": ("Debian clang version 14.0.6", "tool 14.0.6"),
    "two lines": ("tool 1.2\nand 3.4", "tool 1.2"),
    "none": ("hello", None),
}


@pytest.mark.parametrize(("said", "version"), SAYINGS.values(), ids=SAYINGS)
def test_the_version_is_the_first_number_outside_brackets(tmp_path: Path, said: str, version: str | None) -> None:
    assert ask_version((script(tmp_path, f"cat <<'.'\n{said}\n."),)) == version


def test_a_tool_that_cannot_run_or_fails_has_no_version(tmp_path: Path) -> None:
    assert ask_version((script(tmp_path, "echo tool 1.2; exit 127"),)) is None
    assert ask_version(("/no/such/tool",)) is None


def test_a_tool_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.config.languages.VERSION_TIMEOUT", 0.1)
    assert ask_version((script(tmp_path, "exec sleep 30"),)) is None


def test_a_tool_that_does_not_work_gives_way_to_one_that_does(tmp_path, monkeypatch):
    for folder, text in (("shim", "exit 1"), ("real", "echo tool 1.2.3")):
        (tmp_path / folder).mkdir()
        tool = tmp_path / folder / "rustc"
        tool.write_text(f"#!/bin/sh\n{text}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/shim:{tmp_path}/real:/usr/bin:/bin")
    assert find_tool(load()["rust"]) == str(tmp_path / "real" / "rustc")


def test_a_tool_that_is_alone_is_believed(tmp_path, monkeypatch):
    (tmp_path / "rustc").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "rustc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tool(load()["rust"]) == str(tmp_path / "rustc")
