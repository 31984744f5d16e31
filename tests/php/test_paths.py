"""What a script is told about where it is, by each way in which PHP is run."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lab.core.model import Contract
from tests.php.conftest import World, php_app

Start = Callable[..., Awaitable[World]]

TELL = (
    "<?php header('Content-Type: application/json'); echo json_encode($_SERVER + ['GET' => $_GET, 'POST' => $_POST]);"
)
FILES = {
    "index.php": TELL,
    "app/index.php": TELL,
    "app/run.php": TELL,
    "style.css": "p {}",
    "note.txt": "<?php echo 'shown as it is';",
    "secret/data.php": TELL,
}
WAYS = {
    "fastcgi": {"language": "php", "protocol": Contract.FASTCGI},
    "cgi": {"language": "php", "protocol": Contract.CGI},
    "fpm": {"language": "php-fpm"},
}


@pytest.fixture(params=WAYS)
async def told(
    request: pytest.FixtureRequest, start: Start, tmp_path: Path
) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Ask for a path; what the script says its variables are."""
    site = {"front_controller": "index.php", "deny": ("/secret",)}
    world = await start(php_app(tmp_path, FILES, name="wiki", site=site, **WAYS[request.param]))

    async def ask(path: str, method: str = "GET", **more: Any) -> dict[str, Any]:
        answer = await world.client.request(method, path, **more)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return ask


async def test_a_script_knows_its_address_its_file_and_the_rest_of_the_path(told: Any, tmp_path: Path) -> None:
    found = await told("/wiki/app/run.php/a/b%20c?x=1&x=2&y=%26")
    assert found["SCRIPT_NAME"] == "/wiki/app/run.php"
    assert found["SCRIPT_FILENAME"] == str(tmp_path / "app/run.php")
    assert found["PATH_INFO"] == "/a/b c"
    assert found["PHP_SELF"] == "/wiki/app/run.php/a/b c"
    assert found["REQUEST_URI"] == "/wiki/app/run.php/a/b%20c?x=1&x=2&y=%26"
    assert found["DOCUMENT_ROOT"] == str(tmp_path)
    assert found["GET"] == {"x": "2", "y": "&"}


async def test_a_script_without_more_path_has_no_path_info(told: Any) -> None:
    found = await told("/wiki/app/run.php")
    assert not found.get("PATH_INFO")
    assert found["PHP_SELF"] == "/wiki/app/run.php"


async def test_a_folders_index_is_the_script(told: Any) -> None:
    found = await told("/wiki/app/")
    assert found["SCRIPT_NAME"] == "/wiki/app/index.php"
    assert found["REQUEST_URI"] == "/wiki/app/"


async def test_the_front_controller_gets_what_is_no_file(told: Any, tmp_path: Path) -> None:
    found = await told("/wiki/news/2024?page=3")
    assert found["SCRIPT_NAME"] == "/wiki/index.php"
    assert found["SCRIPT_FILENAME"] == str(tmp_path / "index.php")
    assert found["PATH_INFO"] == "/news/2024"
    assert found["REQUEST_URI"] == "/wiki/news/2024?page=3"


async def test_a_form_reaches_the_script(told: Any) -> None:
    found = await told("/wiki/app/run.php", "POST", data={"name": "Ada", "text": "é & ü"})
    assert found["POST"] == {"name": "Ada", "text": "é & ü"}
    assert found["REQUEST_METHOD"] == "POST"


@pytest.mark.parametrize("way", WAYS)
async def test_files_come_from_the_proxy_and_secrets_from_nobody(start: Start, tmp_path: Path, way: str) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.php"
    outside.write_text(TELL)
    site_folder = tmp_path / "site"
    app = php_app(site_folder, FILES, name="wiki", site={"deny": ("/secret",)}, **WAYS[way])
    os.symlink(outside, site_folder / "link.php")  # noqa: PTH211
    world = await start(app)
    for path, status in {
        "/wiki/style.css": 200,
        "/wiki/note.txt": 200,
        "/wiki/secret/data.php": 403,
        "/wiki/link.php": 403,
        "/wiki/.user.ini": 403,
        "/wiki/none.php": 404,
        "/wiki/style.css/x.php": 404,
        "/wiki/app": 301,
    }.items():
        answer = await world.client.get(path)
        assert (path, answer.status_code) == (path, status)
    assert (await world.client.get("/wiki/note.txt")).text == FILES["note.txt"]
