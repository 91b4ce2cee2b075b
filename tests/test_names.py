"""The names that `mobile_sam` itself has."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mobile_sam

LIGHT = "import sys, mobile_sam; {}; print(sorted({{'torch', 'pandas'}} & set(sys.modules)))"


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("pass", "[]"),
        ("dir(mobile_sam)", "[]"),
        ("mobile_sam.__version__", "[]"),
        ("mobile_sam.SamPredictor", "['torch']"),
    ],
)
def test_the_package_starts_without_torch(statement: str, loaded: str) -> None:
    command = [sys.executable, "-c", LIGHT.format(statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == loaded


@pytest.mark.parametrize("name", mobile_sam.__all__)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(mobile_sam, name)
    assert value.__doc__
    assert name in dir(mobile_sam)


def test_editors_and_type_checkers_see_the_names_where_they_are() -> None:
    tree = ast.parse(Path(mobile_sam.__file__).read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: statement.module.removeprefix("mobile_sam.")
        for statement in checked.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }
    assert imported == mobile_sam._HOMES
    assert set(imported) == set(mobile_sam.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mobile_sam' has no attribute 'nothing'"):
        mobile_sam.nothing  # noqa: B018
