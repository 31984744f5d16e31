"""Adminer as Debian installs it, unmodified: the page of its package, and one that opens a SQLite database.

Adminer refuses databases without a password. Its documentation has whoever wants one write a page of a few lines that
sets a password and includes Adminer (/usr/share/adminer/adminer/sqlite.php is its example): so does this.
"""

import re
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from lab import paths
from lab.config import manifest
from tests.php.conftest import World, php_app, with_ini

ADMINER = Path("/usr/share/adminer")
Start = Callable[..., Awaitable[World]]

pytestmark = pytest.mark.skipif(not (ADMINER / "adminer.php").exists(), reason="needs adminer")

PAGE = """<?php
function adminer_object() {
    include_once "/usr/share/adminer/plugins/plugin.php";
    include_once "/usr/share/adminer/plugins/login-password-less.php";
    return new AdminerPlugin([new AdminerLoginPasswordLess(password_hash("secret", PASSWORD_DEFAULT))]);
}
include "/usr/share/adminer/adminer.php";
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "books.db"
    with sqlite3.connect(path) as books:
        books.execute("CREATE TABLE books (title TEXT, year INTEGER)")
        books.execute("INSERT INTO books VALUES ('The UNIX Programming Environment', 1984)")
    return path


@pytest.fixture
async def client(start: Start, tmp_path: Path) -> httpx.AsyncClient:
    """Two workers, so that a session has to be kept outside them."""
    (tmp_path / "sessions").mkdir()
    app = php_app(tmp_path / "site", {"index.php": PAGE, "style.css": (ADMINER / STYLE).read_text()}, name="db")
    world = await start(with_ini(app, **{"session.save_path": str(tmp_path / "sessions")}))
    return world.client


STYLE = "designs/dracula/adminer.css"


async def log_in(client: httpx.AsyncClient, database: Path, password: str = "secret") -> httpx.Response:
    """What the login form leads to."""
    form = await client.get("/db/")
    assert 'name="auth[password]"' in form.text
    auth = {"driver": "sqlite", "server": "", "username": "", "password": password, "db": str(database)}
    answer = await client.post("/db/", data={f"auth[{name}]": value for name, value in auth.items()})
    assert answer.status_code == 302
    return await client.get(answer.headers["location"])


def token(page: str) -> str:
    """What Adminer puts into each form against forged ones."""
    match = re.search(r"name='token' value='([0-9:]+)'|name=\"token\" value=\"([0-9:]+)\"", page)
    assert match, page[:2000]
    return match[1] or match[2]


async def test_the_page_of_the_package_asks_for_a_login_and_brings_its_own_style(start: Start, tmp_path: Path) -> None:
    apps = manifest.load(paths.content("samples") / "php-apps.json").apps
    app = next(app for app in apps if app.name == "adminer")
    world = await start(with_ini(app, **{"session.save_path": str(tmp_path)}))
    page = await world.client.get("/adminer", follow_redirects=True)
    assert page.status_code == 200
    assert "Login - Adminer" in page.text
    assert str(page.url).endswith("/adminer/")
    kinds = set()
    for link in re.findall(r"""(?:href|src)=["']([^"']*file=[^"']*)""", page.text):
        answer = await world.client.get(page.url.join(link.replace("&amp;", "&")))
        assert (link, answer.status_code) == (link, 200)
        kinds.add(answer.headers["content-type"].partition(";")[0])
    assert {"text/css", "text/javascript"} <= kinds


async def test_the_page_of_the_package_opens_no_database_without_a_password(start: Start, tmp_path: Path) -> None:
    apps = manifest.load(paths.content("samples") / "php-apps.json").apps
    app = next(app for app in apps if app.name == "adminer")
    world = await start(with_ini(app, **{"session.save_path": str(tmp_path)}))
    auth = {"driver": "sqlite", "server": "", "username": "", "password": "", "db": str(tmp_path / "any.db")}
    fields = {f"auth[{name}]": value for name, value in auth.items()}
    page = await world.client.post("/adminer/", data=fields, follow_redirects=True)
    assert page.status_code == 403
    assert "Adminer does not support accessing a database without a password" in page.text


async def test_style_sheets_are_served_by_the_proxy(client: httpx.AsyncClient) -> None:
    answer = await client.get("/db/style.css")
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert answer.text == (ADMINER / STYLE).read_text()


async def test_a_wrong_password_opens_nothing(client: httpx.AsyncClient, database: Path) -> None:
    page = await log_in(client, database, password="wrong")
    assert "books" not in page.text.replace("books.db", "")


async def test_a_session_is_kept_over_both_workers_and_a_table_is_read(
    client: httpx.AsyncClient, database: Path
) -> None:
    await log_in(client, database)
    for _ in range(4):
        page = await client.get("/db/", params={"sqlite": "", "username": "", "db": str(database), "select": "books"})
        assert page.status_code == 200
        assert "The UNIX Programming Environment" in page.text


async def test_a_statement_in_a_form_is_executed(client: httpx.AsyncClient, database: Path) -> None:
    await log_in(client, database)
    address = {"sqlite": "", "username": "", "db": str(database), "sql": ""}
    page = await client.get("/db/", params=address)
    statement = "INSERT INTO books VALUES ('TCP/IP Illustrated, åäö & more', 1994);"
    done = await client.post("/db/", params=address, data={"query": statement, "token": token(page.text), "limit": ""})
    assert "1 row affected" in done.text
    with sqlite3.connect(database) as books:
        assert books.execute("SELECT title FROM books WHERE year = 1994").fetchall() == [
            ("TCP/IP Illustrated, åäö & more",)
        ]


async def test_an_uploaded_file_of_statements_is_executed(client: httpx.AsyncClient, database: Path) -> None:
    await log_in(client, database)
    address = {"sqlite": "", "username": "", "db": str(database), "import": ""}
    page = await client.get("/db/", params=address)
    inserts = "".join(f"INSERT INTO books VALUES ('Volume {volume}', 2000);\n" for volume in range(500))
    statements = f"BEGIN;\n{inserts}COMMIT;\n"
    done = await client.post(
        "/db/",
        params=address,
        data={"token": token(page.text)},
        files={"sql_file[]": ("books.sql", statements, "application/sql")},
    )
    assert done.status_code == 200
    with sqlite3.connect(database) as books:
        assert books.execute("SELECT count(*) FROM books WHERE year = 2000").fetchone() == (500,)
