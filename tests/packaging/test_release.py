"""What a release is made of, in step: versions, citation, installation, CI and hooks."""

import re
import tomllib
from typing import Any

import pytest
import yaml

import mobile_sam
from tests.conftest import ROOT
from tests.packaging.conftest import MAKEFILE

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GITHUB = ROOT / ".github" / "workflows" / "ci.yml"
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_version_is_one() -> None:
    newest = re.search(r"^## \[?(\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert PROJECT["version"] == CITATION["version"] == newest[1] == mobile_sam.__version__


def test_the_citation_names_what_the_project_builds_on() -> None:
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["license"] == PROJECT["license"]
    assert [a["name"] for a in CITATION["authors"]] == [a["name"] for a in PROJECT["authors"]]
    referred = {r["doi"]: r["title"] for r in CITATION["references"]}
    assert referred["10.48550/arXiv.2304.02643"] == "Segment Anything"
    assert "Lightweight SAM" in referred["10.48550/arXiv.2306.14289"]


def test_every_extra_is_explained() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    explained = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert explained == set(PROJECT["optional-dependencies"])
    assert f"mobile_sam-{PROJECT['version']}-py3-none-any.whl" in page


@pytest.fixture
def jobs() -> dict[str, dict[str, Any]]:
    """The jobs of GitHub's workflow, by name."""
    return yaml.safe_load(GITHUB.read_text())["jobs"]


def test_github_runs_what_a_contributor_runs(jobs: dict[str, dict[str, Any]]) -> None:
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert runs == [".ci/run", "make test-package"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert "\ntest-package:" in MAKEFILE
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert oldest in jobs["test"]["strategy"]["matrix"]["python"]


def test_github_may_read_alone_and_takes_actions_by_their_commit(
    jobs: dict[str, dict[str, Any]],
) -> None:
    assert yaml.safe_load(GITHUB.read_text())["permissions"] == {"contents": "read"}
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert len(used) == 2 * len(jobs)
    for action in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action)


def test_hooks_before_a_commit_are_those_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = MAKEFILE.split("\nlint: install\n")[1].split("\n\n")[0].splitlines()
    tools = {re.sub(r" --check| \.$| Snakefile workflow", "", line.strip()) for line in lint}
    assert {hook["entry"] for hook in hooks} == tools
    assert len(tools) == 5
