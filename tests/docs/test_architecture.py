"""The map of the package: every room is on the page, and every room on the page exists."""

import re
from pathlib import Path

from tests.helpers.commands import ROOT

PACKAGE = ROOT / "mobile_sam"


def rooms() -> set[str]:
    """Packages at any depth, and the modules at the root, as the page writes them."""
    inner = (path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("__init__.py"))
    packages = {f"{path.as_posix()}/" for path in inner if path != Path()}
    return packages | {path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"}


def test_the_map_has_every_package_and_root_module_and_no_other() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = [name for row in re.findall(r"^\|([^|]*)\|", page, re.M) for name in row.split(",")]
    shown = {match[1] for name in names if (match := re.fullmatch(r"\s*`([\w/.]+)`\s*", name))}
    assert shown == rooms()
