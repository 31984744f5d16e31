"""Each app has PHP's settings for itself, and clients cannot change them."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from lab.config import languages
from lab.core.model import Contract, PhpSettings
from tests.php.conftest import World, php_app, with_ini

Start = Callable[..., Awaitable[World]]

INI = "<?php foreach (['memory_limit', 'max_execution_time', 'error_reporting'] as $k) echo ini_get($k), ' ';"
VALUES = {"memory_limit": "33M", "max_execution_time": "7", "error_reporting": "E_ALL & ~E_NOTICE"}
SEEN = "33M 7 32759 "


@pytest.mark.parametrize("language", ["php", "php-fpm"])
async def test_apps_have_values_of_php_ini_of_their_own(start: Start, tmp_path: Path, language: str) -> None:
    one = with_ini(php_app(tmp_path / "one", {"index.php": INI}, name="one", language=language), **VALUES)
    two = php_app(tmp_path / "two", {"index.php": INI}, name="two", language=language)
    world = await start(one, two)
    assert (await world.client.get("/one/")).text == SEEN
    assert not (await world.client.get("/two/")).text.startswith("33M")


async def test_no_query_switches_the_settings_off(start: Start, tmp_path: Path) -> None:
    """php-cgi reads no options when the query looks like one (CVE-2012-1823), so they are not given as options."""
    world = await start(with_ini(php_app(tmp_path, {"index.php": INI}, protocol=Contract.CGI), **VALUES))
    for query in ("", "?-x", "?-d+memory_limit%3d1G", "?-s", "?-c/tmp"):
        answer = await world.client.get(f"/php/{query}")
        assert (query, answer.text) == (query, SEEN)


async def test_a_changed_value_replaces_the_workers_and_fails_no_request(start: Start, tmp_path: Path) -> None:
    app = with_ini(php_app(tmp_path, {"index.php": INI}), **VALUES)
    world = await start(app)
    before = {worker.pid for worker in (await world.snapshot()).apps[0].workers}
    await world.lab.set("php", {"php.ini.memory_limit": "44M"})
    await world.until(lambda snapshot: not before & {worker.pid for worker in snapshot.apps[0].workers})
    assert (await world.client.get("/php/")).text.startswith("44M")


async def test_a_version_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    app = php_app(tmp_path, {"index.php": INI})
    language = languages.load()["php"]
    there = languages.versions(language)
    with pytest.raises(Exception, match=f"PHP 4.4 is not installed; found: {there[0]}"):
        languages.find_tool(language, "4.4")
    assert app.php.version == ""


async def test_the_version_that_an_app_names_runs_it(start: Start, tmp_path: Path) -> None:
    version = languages.versions(languages.load()["php"])[0]
    app = php_app(tmp_path, {"index.php": "<?php echo PHP_MAJOR_VERSION, '.', PHP_MINOR_VERSION;"})
    world = await start(msgspec.structs.replace(app, php=PhpSettings(version=version)))
    assert (await world.client.get("/php/")).text == version
    worker = (await world.snapshot()).apps[0].workers[0]
    assert Path(f"/proc/{worker.pid}/cmdline").read_text().split("\0")[0].endswith(f"php-cgi{version}")
