"""A hook of mkdocs: pages that lie outside of `docs/`, and links that hold in both places.

README, configs/README and others are read where they are, in the repository, and are pages of the
site as well. So a link on any page is that of the repository, and is rewritten here to the page of
the site. A file of the repository that is no page is named on the site, and not linked.
"""

import posixpath
import re
from functools import partial
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

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


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of `docs/`."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links rewritten."""
    place = page.file.src_uri
    source = OUTSIDE.get(place, f"docs/{place}")
    return LINK.sub(partial(_moved, posixpath.dirname(source)), markdown)


def _moved(directory: str, link: re.Match[str]) -> str:
    text, target, anchor = link.groups(default="")
    path = posixpath.normpath(posixpath.join(directory, target))
    if path in PAGES:
        return f"[{text}]({PAGES[path]}{anchor})"
    if path.startswith("docs/"):
        return f"[{text}]({path.removeprefix('docs/')}{anchor})"
    # What is no file at all is left to mkdocs, which warns of it, or is no link but code.
    return text if (ROOT / path).exists() else link[0]
