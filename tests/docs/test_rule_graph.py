"""The picture of the workflow's rules is the graph that Snakemake plans."""

import runpy
from typing import Any

import pytest

from tests.helpers.commands import ROOT

PICTURE = ROOT / "docs" / "images" / "rules.svg"


@pytest.fixture(scope="module")
def drawing() -> dict[str, Any]:
    """Names of the script that draws it."""
    return runpy.run_path(str(ROOT / "docs" / "building" / "rule_graph.py"))


def test_the_picture_is_up_to_date(drawing: dict[str, Any]) -> None:
    picture = drawing["draw"](drawing["plan_graph"]())
    assert picture == PICTURE.read_text(), "run `make rule-graph`"
    assert "docs/images/rules.svg" in (ROOT / "Makefile").read_text()
    assert "](images/rules.svg)" in (ROOT / "docs" / "workflow.md").read_text()


def test_lines_that_a_longer_path_replaces_are_left_out(drawing: dict[str, Any]) -> None:
    graph = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "c"}}
    assert drawing["without_detours"](graph) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"c"}}


def test_rules_stand_below_all_that_they_depend_on(drawing: dict[str, Any]) -> None:
    graph = {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"a", "c"}}
    rows = drawing["rows_of"](graph)
    assert rows == {"a": 0, "b": 1, "c": 2, "d": 3}
    places, width = drawing["columns_of"](graph, rows)
    assert {("d", "a", 1), ("d", "a", 2)} < set(places)
    assert len(set(places.values())) == len(places)
    assert all(0 < x < width for x, _ in places.values())
