"""Plain English: how docstrings begin, and words that no text for users has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

# A docstring begins with a verb or a noun, not with one of these and a word in lower case.
NO_BEGINNING = re.compile(r"(Of|What|As|Where|Who|How|Whether|If|Those|That) [a-z`(]")
# Words that are never right in plain English, whatever the sentence.
BANNED = re.compile(r"\b(lest|anew|to be had|but for|thereof|wherein)\b", re.IGNORECASE)
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TEXTS = [
    *(p for kind in ("py", "html", "js") for p in sorted((ROOT / "mobile_sam").rglob(f"*.{kind}"))),
    *sorted((ROOT / "workflow").rglob("*.smk")),
]


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and first line of each docstring of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text.splitlines()[0]


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / "mobile_sam").rglob("*.py"))
        for line, text in docstrings(path)
        if NO_BEGINNING.match(text)
    ]
    assert found == []


@pytest.mark.parametrize("path", [*PAGES, *TEXTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_for_users_has_a_word_that_is_never_right(path: Path) -> None:
    found = [
        f"{number}: {line.strip()}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BANNED.search(line)
    ]
    assert found == []
