"""The site builds without a warning, loads nothing from elsewhere, and shows all public names."""

import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser

import mobile_sam
from tests.helpers.browsers import Opened, started_browser
from tests.helpers.commands import ROOT
from tests.helpers.documented_commands import PAGES

browser = pytest.fixture(scope="module")(started_browser)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory in which the site is built, in `site/`, as `make docs` does it."""
    directory = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "zensical.toml", directory)
    for name in ("mobile_sam", "docs"):
        (directory / name).symlink_to(ROOT / name)
    collect = [sys.executable, str(ROOT / "docs/building/pages.py"), "build/docs"]
    subprocess.run(collect, check=True, cwd=directory)
    built = build(directory)
    assert built.returncode == 0, built.stdout + built.stderr[-3000:]
    return directory


def build(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)


@pytest.fixture
def site(project: Path) -> Path:
    return project / "site"


def test_make_builds_the_site_in_two_steps() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\ndocs: install\n")[1].split("\n\n")[0]
    assert "\tpython docs/building/pages.py build/docs\n\tzensical build --strict\n" in recipe


def test_a_broken_link_ends_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Page\n\n[other](other.md)\n")
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "broken"\n')
    assert build(tmp_path).returncode != 0


def test_every_page_has_a_place_in_the_navigation(project: Path) -> None:
    nav = str(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    named = sorted(re.findall(r"[\w-]+\.md", nav))
    assert named == sorted(page.name for page in (project / "build/docs").glob("*.md"))


class Loaded(HTMLParser):
    """What a browser loads with a page: pictures, scripts, styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address of what is loaded."""
        values = dict(attrs)
        if tag == "link" and values.get("rel") in {"canonical", "next", "prev"}:
            return
        if tag in {"img", "script", "link", "iframe", "source"}:
            self.found += [values[key] or "" for key in ("src", "href") if values.get(key)]


def test_every_page_is_on_the_site(site: Path) -> None:
    missing = [page for page in PAGES if not (site / of_page(page)).is_file()]
    assert missing == []


def of_page(page: str) -> str:
    """The file of the site that shows a page of the repository."""
    if page.startswith("docs/"):
        return f"{Path(page).stem}.html"
    return "index.html" if page == "README.md" else f"{Path(page).stem.lower()}.html"


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loaded = Loaded()
    for page in site.glob("*.html"):
        loaded.feed(page.read_text())
    assert len(loaded.found) > 50
    assert [address for address in loaded.found if re.match(r"(https?:)?//", address)] == []


def test_links_between_pages_hold_on_the_site(site: Path) -> None:
    page = (site / "workflow.html").read_text()
    assert 'href="configuration.html"' in page
    assert "configs/README.md" not in re.findall(r'href="([^"]*)"', page)


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    shown = set(re.findall(r'id="mobile_sam\.([\w.]+)"', (site / "api.html").read_text()))
    names = {name.rsplit(".", 1)[-1] for name in shown}
    assert set(mobile_sam.__all__) <= names


def test_links_on_the_pages_lead_to_files() -> None:
    link = re.compile(r"\]\(([\w./-]+)[)#]")
    found = [(page, path) for page in PAGES for path in link.findall((ROOT / page).read_text())]
    assert len(found) > 100
    dead = [(page, path) for page, path in found if not ((ROOT / page).parent / path).exists()]
    assert dead == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_from_the_disk_finds_words_and_asks_for_nothing_else(
    scheme: str, site: Path, browser: Browser
) -> None:
    opened = Opened.blank(browser, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    opened.page.goto((site / "index.html").as_uri())
    opened.page.keyboard.press("Control+k")
    opened.page.keyboard.type("preemption")
    opened.page.get_by_role("option").filter(has_text="preemption").first.wait_for(timeout=10_000)
    assert opened.page.get_by_role("combobox").input_value() == "preemption"
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    opened.page.context.close()
