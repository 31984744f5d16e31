"""What answers a path below a document root. The folder is real, and so are its symbolic links."""

import os
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.model import SiteSpec
from lab.proxy.site import File, Redirect, Refused, Resolution, Script, resolve

FILES = (
    "site/index.php",
    "site/style.css",
    "site/a page.html",
    "site/.htpasswd",
    "site/.git/config",
    "site/docs/index.html",
    "site/docs/read.txt",
    "site/empty/picture.png",
    "site/app/index.php",
    "site/app/Run.PHP",
    "site/odd.php/inside.txt",
    "site/data/secret.txt",
    "site/data/secret.php",
    "outside/secret.txt",
    "outside/secret.php",
    "shared/theme.css",
)
LINKS = {
    "site/leak": "outside",
    "site/leak.txt": "outside/secret.txt",
    "site/leak.php": "outside/secret.php",
    "site/theme": "shared",
    "site/shown": "site/data",
    "site/source.txt": "site/index.php",
    "site/again.css": "site/style.css",
}


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("top").resolve()
    for name in FILES:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    for name, target in LINKS.items():
        (top / name).symlink_to(top / target)
    (top / "site/loop").symlink_to(top / "site/loop")
    os.mkfifo(top / "site/pipe")
    return top


@pytest.fixture(scope="module")
def site(top: Path) -> SiteSpec:
    return SiteSpec(root=str(top / "site"), allow=(str(top / "shared"),), deny=("/data",))


@pytest.fixture(scope="module")
def fronted(site: SiteSpec) -> SiteSpec:
    return msgspec.structs.replace(site, front_controller="index.php")


def status(resolution: Resolution) -> int:
    assert isinstance(resolution, Refused), resolution
    return resolution.status


def test_a_file_is_found_by_its_name(site: SiteSpec) -> None:
    assert resolve(site, "/wiki", "/wiki/style.css") == File(f"{site.root}/style.css")


def test_a_path_is_decoded_once(site: SiteSpec) -> None:
    assert resolve(site, "/wiki", "/wiki/a%20page.html") == File(f"{site.root}/a page.html")
    assert status(resolve(site, "/wiki", "/wiki/a%2520page.html")) == 404


@pytest.mark.parametrize("path", ["/wiki//style.css", "/wiki/./docs/%2e%2E/style.css", "/wiki/docs/../style.css"])
def test_dots_and_double_slashes_change_nothing(site: SiteSpec, path: str) -> None:
    assert resolve(site, "/wiki", path) == File(f"{site.root}/style.css")


@pytest.mark.parametrize(
    "path", ["/wiki/..", "/wiki/../wiki/style.css", "/wiki/docs/../../style.css", "/wiki/%2e%2e/x"]
)
def test_a_path_that_climbs_above_its_route_is_refused(site: SiteSpec, path: str) -> None:
    assert status(resolve(site, "/wiki", path)) == 400


@pytest.mark.parametrize("path", ["/style.css%00", "/docs%2fread.txt", "/docs%2Fread.txt", "/%", "/%4", "/%zz"])
def test_what_servers_read_in_different_ways_is_refused(site: SiteSpec, path: str) -> None:
    assert status(resolve(site, "/", path)) == 400


@pytest.mark.parametrize("path", ["/.htpasswd", "/.git/config", "/%2ehtpasswd", "/docs/../.git/config", "/.missing"])
def test_hidden_names_are_refused(fronted: SiteSpec, path: str) -> None:
    assert status(resolve(fronted, "/", path)) == 403


@pytest.mark.parametrize("path", ["/data", "/data/", "/data/secret.txt", "/data/secret.php/x", "/docs/../data/none"])
def test_a_denied_prefix_is_refused_whatever_is_there(fronted: SiteSpec, path: str) -> None:
    assert status(resolve(fronted, "/", path)) == 403


def test_a_denied_prefix_ends_at_a_slash(site: SiteSpec) -> None:
    assert status(resolve(site, "/", "/database")) == 404


def test_a_link_into_a_denied_folder_is_refused(site: SiteSpec) -> None:
    assert status(resolve(site, "/", "/shown/secret.txt")) == 403
    assert status(resolve(site, "/", "/shown/secret.php")) == 403


@pytest.mark.parametrize("path", ["/leak/secret.txt", "/leak.txt", "/leak.php", "/leak/secret.php", "/leak.php/info"])
def test_a_link_out_of_the_root_is_refused(site: SiteSpec, path: str) -> None:
    assert status(resolve(site, "/", path)) == 403


def test_a_link_to_an_allowed_folder_is_followed(top: Path, site: SiteSpec) -> None:
    assert resolve(site, "/", "/theme/theme.css") == File(str(top / "shared/theme.css"))


def test_a_link_inside_the_root_is_followed(site: SiteSpec) -> None:
    assert resolve(site, "/", "/again.css") == File(f"{site.root}/style.css")


def test_a_root_that_is_a_link_itself_is_followed(top: Path, tmp_path: Path) -> None:
    (tmp_path / "www").symlink_to(top / "site")
    site = SiteSpec(root=f"{tmp_path}/www/")
    assert resolve(site, "/", "/style.css") == File(str(top / "site/style.css"))
    assert resolve(site, "/", "/index.php") == Script(f"{tmp_path}/www/index.php", "/index.php", "")


def test_a_script_is_run_and_its_name_includes_the_route(site: SiteSpec) -> None:
    expected = Script(f"{site.root}/app/index.php", "/wiki/app/index.php", "")
    assert resolve(site, "/wiki", "/wiki/app/index.php") == expected
    assert resolve(site, "/wiki/", "/wiki/app/index.php") == expected


@pytest.mark.parametrize(
    ("behind", "path_info"), [("", ""), ("/", "/"), ("/a/b", "/a/b"), ("/a//b%20c/", "/a/b c/"), ("/x.php", "/x.php")]
)
def test_what_follows_a_script_is_its_path_info(site: SiteSpec, behind: str, path_info: str) -> None:
    expected = Script(f"{site.root}/index.php", "/index.php", path_info)
    assert resolve(site, "/", "/index.php" + behind) == expected


def test_bytes_that_are_no_utf_8_reach_the_script(site: SiteSpec) -> None:
    found = resolve(site, "/", "/index.php/%ff")
    assert isinstance(found, Script)
    assert os.fsencode(found.path_info) == b"/\xff"


def test_behind_a_file_nothing_may_follow(site: SiteSpec) -> None:
    assert status(resolve(site, "/", "/style.css/")) == 404
    assert status(resolve(site, "/", "/style.css/index.php")) == 404


def test_a_script_is_never_shown_under_another_name(site: SiteSpec) -> None:
    assert status(resolve(site, "/", "/source.txt")) == 403


def test_a_script_is_known_by_its_suffix_in_any_case(site: SiteSpec) -> None:
    assert isinstance(resolve(site, "/", "/app/Run.PHP"), Script)


def test_a_folder_with_a_scripts_suffix_is_a_folder(site: SiteSpec) -> None:
    assert resolve(site, "/", "/odd.php/inside.txt") == File(f"{site.root}/odd.php/inside.txt")


def test_a_folder_answers_with_the_first_index_that_it_has(site: SiteSpec) -> None:
    assert resolve(site, "/wiki", "/wiki/") == Script(f"{site.root}/index.php", "/wiki/index.php", "")
    assert resolve(site, "/wiki", "/wiki/docs/") == File(f"{site.root}/docs/index.html")


def test_a_folder_without_its_slash_is_redirected(site: SiteSpec) -> None:
    assert resolve(site, "/wiki", "/wiki") == Redirect("/wiki/")
    assert resolve(site, "/wiki", "/wiki/docs") == Redirect("/wiki/docs/")


def test_a_redirect_never_leads_to_another_host(site: SiteSpec) -> None:
    assert resolve(site, "/", "//docs") == Redirect("/docs/")


def test_a_folder_is_not_listed(site: SiteSpec) -> None:
    assert status(resolve(site, "/", "/empty/")) == 403


@pytest.mark.parametrize("path", ["/news/2024/", "/news", "/empty/", "/empty", "/style.css/more", "/loop", "/pipe"])
def test_the_front_controller_gets_whatever_is_neither_file_nor_script(fronted: SiteSpec, path: str) -> None:
    assert resolve(fronted, "/", path) == Script(f"{fronted.root}/index.php", "/index.php", path)


def test_a_front_controller_without_a_suffix_is_no_file_either(site: SiteSpec) -> None:
    fronted = msgspec.structs.replace(site, front_controller="style.css")
    assert resolve(fronted, "/", "/style.css") == Script(f"{site.root}/style.css", "/style.css", "")


def test_a_front_controller_that_is_missing_is_not_found(site: SiteSpec) -> None:
    fronted = msgspec.structs.replace(site, front_controller="missing.php")
    assert status(resolve(fronted, "/", "/news")) == 404


@pytest.mark.parametrize("path", ["/missing", "/docs/missing.php", "/loop", "/pipe", "/" + "x" * 5000])
def test_what_is_neither_file_nor_folder_is_not_found(site: SiteSpec, path: str) -> None:
    assert status(resolve(site, "/", path)) == 404


NAMES = sorted({part for name in (*FILES, *LINKS) for part in name.split("/")} | {"loop", "pipe", "..", ".", "", "\\"})
ESCAPED = st.sampled_from(NAMES).map(lambda name: quote(name, safe=""))
DOTTED = st.sampled_from(["%2e%2e", ".%2e", "%2e", "%2f", "%5c", "%00", "%", "..%2f", "..;", "...", "%252e%252e"])
NOISE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#?"), max_size=8)
PATHS = st.lists(ESCAPED | DOTTED | NOISE, max_size=8).map(lambda parts: "/" + "/".join(parts))


@given(path=PATHS, front=st.booleans(), route=st.sampled_from(["/", "/wiki"]))
def test_no_path_leads_out_of_the_site_or_shows_a_script(
    top: Path, site: SiteSpec, fronted: SiteSpec, path: str, front: bool, route: str
) -> None:
    found = resolve(fronted if front else site, route, route.rstrip("/") + path)
    if isinstance(found, File | Script):
        real = Path(found.path if isinstance(found, File) else found.script_filename).resolve(strict=True)
        assert real.is_file()
        assert real.is_relative_to(top / "site") or real.is_relative_to(top / "shared")
        assert not real.is_relative_to(top / "site/data")
        assert not any(part.startswith(".") for part in real.relative_to(top).parts)
        assert isinstance(found, Script) == (real.suffix.lower() == ".php")
    elif isinstance(found, Redirect):
        assert found.location.startswith(route)
        assert not found.location.startswith(("//", "/\\"))
        assert not set(found.location) & set("\r\n ?#\\")
