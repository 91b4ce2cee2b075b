"""Collect the pages of the documentation in one directory, which Zensical then builds as a site.

    python docs/building/pages.py build/docs

README, configs/README and other pages outside of `docs/` are read in the repository, and are pages
of the site as well. Therefore the links on a page are links of the repository, and this step
rewrites them to pages of the site. A link to a file that is no page becomes plain text on the site.
"""

import posixpath
import re
import shutil
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "index.md": "README.md",
    "configuration.md": "configs/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
PAGES = {source: page for page, source in OUTSIDE.items()}
# [text](target#anchor) with a target in the repository, in text or in front of a picture.
LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:)([^)#\s\"]+)(#[^)\s]*)?\)")


def collect_pages(target: Path) -> None:
    """Write all pages, pictures and styles of the site to `target`, and remove what was there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs", target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    sources = {page.name: f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} | OUTSIDE
    for name, source in sources.items():
        page = (ROOT / source).read_text()
        (target / name).write_text(rewrite_links(page, posixpath.dirname(source)))


def rewrite_links(page: str, directory: str) -> str:
    """Return the Markdown of a page that lies in `directory`, with the links of the site."""
    return LINK.sub(partial(_link_of_the_site, directory), page)


def _link_of_the_site(directory: str, link: re.Match[str]) -> str:
    text, target, anchor = link.groups(default="")
    path = posixpath.normpath(posixpath.join(directory, target))
    if path in PAGES:
        return f"[{text}]({PAGES[path]}{anchor})"
    if path.startswith("docs/"):
        return f"[{text}]({path.removeprefix('docs/')}{anchor})"
    # A path that does not exist stays: Zensical warns about it, or it is code and no link.
    return text if (ROOT / path).exists() else link[0]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/building/pages.py DIRECTORY")
    collect_pages(Path(sys.argv[1]))
