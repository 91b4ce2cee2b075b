"""The site builds without a warning, loads nothing from elsewhere, and shows all public names."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import mobile_sam
from tests.conftest import ROOT
from tests.docs.commands import PAGES


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does it."""
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-3000:]
    return directory


class Loaded(HTMLParser):
    """What a browser loads with a page: pictures, scripts, styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address of what is loaded."""
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in {"stylesheet", "icon", "preload"}:
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
