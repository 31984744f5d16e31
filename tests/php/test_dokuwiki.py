"""DokuWiki as Debian installs it: its code unmodified and in place, its pages and settings in a folder of the test."""

import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from lab import paths
from lab.config import manifest
from lab.core.model import AppSpec, PoolSettings
from tests.php.conftest import World, with_ini

CODE = Path("/usr/share/dokuwiki")
CONF = Path("/etc/dokuwiki")
PREPEND = Path(__file__).with_name("dokuwiki_prepend.php")

pytestmark = pytest.mark.skipif(not (CODE / "doku.php").exists(), reason="needs dokuwiki")

ADA = "ada:$1$ab$dslkcXxVH.x8LwW1W/oAB/:Ada:ada@example.org:admin,user\n"
ACL = "*\t@ALL\t1\n*\t@user\t8\n"
SETTINGS = """<?php
$conf['title'] = 'Wiki of the lab';
$conf['useacl'] = 1;
$conf['superuser'] = '@admin';
$conf['savedir'] = '{data}';
$conf['updatecheck'] = 0;
$conf['sendmail'] = 0;
"""
FOLDERS = ("attic", "cache", "index", "locks", "log", "media", "media_attic", "media_meta", "meta", "pages", "tmp")
PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080600000"
    "01f15c4890000000d49444154789c6360f8cfc000000301010018dd8db00000000049454e44ae426082"
)


def wiki(folder: Path) -> AppSpec:
    """The app of samples/php-apps.json, with a private place for what it writes."""
    conf, data = folder / "conf", folder / "data"
    conf.mkdir()
    for file in CONF.iterdir():
        if not file.is_symlink() and file.is_file():
            shutil.copy(file, conf)
    (conf / "local.php").write_text(SETTINGS.format(data=data))
    (conf / "users.auth.php").write_text(ADA)
    (conf / "acl.auth.php").write_text(ACL)
    for name in FOLDERS:
        (data / name).mkdir(parents=True)
    (data / "pages/start.txt").write_text("====== Welcome ======\nThis page was here before.\n")
    apps = manifest.load(paths.content("samples") / "php-apps.json").apps
    app = next(app for app in apps if app.name == "dokuwiki")
    app = msgspec.structs.replace(app, env={"WIKI_CONF": str(conf)}, pool=PoolSettings(max_workers=2))
    return with_ini(app, auto_prepend_file=str(PREPEND))


@pytest.fixture
async def visitor(start: Callable[..., Awaitable[World]], tmp_path: Path) -> httpx.AsyncClient:
    world = await start(wiki(tmp_path))
    return world.client


def hidden(page: str, name: str) -> str:
    """The value of a hidden field of a form."""
    match = re.search(rf'name="{name}"[^>]*value="([^"]*)"|value="([^"]*)"[^>]*name="{name}"', page)
    assert match, f"no field {name} in:\n{page[:2000]}"
    return match[1] or match[2] or ""


async def log_in(visitor: httpx.AsyncClient, password: str = "secret") -> httpx.Response:
    """What the login form brings."""
    form = (await visitor.get("/dokuwiki/doku.php", params={"id": "start", "do": "login"})).text
    fields = {"sectok": hidden(form, "sectok"), "id": "start", "do": "login", "u": "ada", "p": password}
    return await visitor.post("/dokuwiki/doku.php", params={"id": "start"}, data=fields)


async def test_pages_styles_scripts_and_pictures_are_served(visitor: httpx.AsyncClient) -> None:
    page = await visitor.get("/dokuwiki/")
    assert page.status_code == 200
    assert "This page was here before." in page.text
    links = re.findall(r'(?:src|href)="(/dokuwiki/[^"]+)"', page.text)
    kinds = set()
    for link in links:
        answer = await visitor.get(link.replace("&amp;", "&"), follow_redirects=True)
        assert (link, answer.status_code) == (link, 200)
        kinds.add(answer.headers["content-type"].partition(";")[0])
    assert kinds >= {"text/html", "text/css", "application/javascript", "image/png"}


async def test_files_of_templates_and_plugins_are_served_through_debians_links(visitor: httpx.AsyncClient) -> None:
    for path, kind in {
        "/dokuwiki/lib/images/license/button/cc-by-sa.png": "image/png",
        "/dokuwiki/lib/tpl/dokuwiki/images/logo.png": "image/png",
        "/dokuwiki/lib/tpl/dokuwiki/css/basic.less": None,
        "/dokuwiki/lib/plugins/acl/script.js": "javascript",
    }.items():
        answer = await visitor.get(path)
        assert (path, answer.status_code) == (path, 200)
        assert kind is None or kind in answer.headers["content-type"]
        assert answer.headers["etag"]
        again = await visitor.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304


async def test_what_is_not_meant_for_visitors_is_refused(visitor: httpx.AsyncClient) -> None:
    for path in ("/inc/init.php", "/bin/dwpage.php", "/vendor/autoload.php", "/.htaccess", "/lib/../inc/init.php"):
        assert (path, (await visitor.get(f"/dokuwiki{path}")).status_code) == (path, 403)


async def test_a_wrong_password_is_no_session(visitor: httpx.AsyncClient) -> None:
    answer = await log_in(visitor, password="wrong")
    assert answer.status_code == 403
    assert "Log In" in answer.text
    assert "ada@example.org" not in answer.text


async def test_a_session_is_kept_and_a_page_is_written(visitor: httpx.AsyncClient, tmp_path: Path) -> None:
    answer = await log_in(visitor)
    assert answer.status_code in (200, 302), answer.text
    page = (await visitor.get("/dokuwiki/doku.php", params={"id": "notes:first", "do": "edit"})).text
    fields = {
        "sectok": hidden(page, "sectok"),
        "id": "notes:first",
        "date": "",
        "prefix": ".",
        "suffix": "",
        "changecheck": "",
        "wikitext": "====== Räksmörgås ======\nWritten **by a form**.\n",
        "summary": "first",
        "do[save]": "1",
    }
    saved = await visitor.post("/dokuwiki/doku.php", params={"id": "notes:first"}, data=fields)
    assert saved.status_code == 302
    read = await visitor.get(saved.headers["location"])
    assert "Räksmörgås" in read.text
    assert "<strong>by a form</strong>" in read.text
    assert "by a form" in (tmp_path / "data/pages/notes/first.txt").read_text()


async def test_a_picture_is_uploaded_and_comes_back_as_it_was(visitor: httpx.AsyncClient, tmp_path: Path) -> None:
    await log_in(visitor)
    upload = {"id": "start", "do": "media", "tab_files": "upload", "ns": ""}
    form = (await visitor.get("/dokuwiki/doku.php", params=upload)).text
    fields = {"sectok": hidden(form, "sectok"), "ns": "", "mediaid": "dot.png"}
    answer = await visitor.post(
        "/dokuwiki/lib/exe/mediamanager.php", data=fields, files={"upload": ("dot.png", PICTURE, "image/png")}
    )
    assert answer.status_code == 200
    assert (tmp_path / "data/media/dot.png").read_bytes() == PICTURE
    fetched = await visitor.get("/dokuwiki/lib/exe/fetch.php", params={"media": "dot.png"})
    assert (fetched.status_code, fetched.content) == (200, PICTURE)
    assert fetched.headers["content-type"] == "image/png"


async def test_a_visitor_without_a_session_may_read_and_not_write(visitor: httpx.AsyncClient) -> None:
    page = await visitor.get("/dokuwiki/doku.php", params={"id": "start", "do": "edit"})
    assert 'name="do[save]"' not in page.text
