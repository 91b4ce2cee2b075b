"""What a release is made of, in step: versions, citation, installation, CI and hooks."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import mobile_sam
from tests.helpers.commands import ROOT
from tests.helpers.distributions import MAKEFILE, TORCH

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GITHUB = ROOT / ".github" / "workflows" / "ci.yml"
RELEASE = GITHUB.with_name("release.yml")
NOTES = ROOT / ".github" / "release_notes.py"
release_notes = runpy.run_path(str(NOTES))["release_notes"]
LOCKS = sorted((ROOT / "requirements").glob("lock-*.txt"))
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
    tested = jobs["test"]["strategy"]["matrix"]["python"]
    assert tested[0] == oldest
    assert tested == [path.stem.removeprefix("lock-") for path in LOCKS]
    named = [re.search(r":: Python :: (3\.\d+)$", text) for text in PROJECT["classifiers"]]
    assert [match[1] for match in named if match] == tested


def test_workflows_may_read_alone_and_take_actions_by_their_commit() -> None:
    for path in GITHUB.parent.glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        jobs = workflow["jobs"].values()
        used = [step["uses"] for job in jobs for step in job["steps"] if "uses" in step]
        assert len(used) >= len(jobs)
        for action in used:
            assert re.fullmatch(r"(actions|pypa)/[\w-]+@[0-9a-f]{40}", action)
    assert yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["version"] == 2


def test_a_release_is_checked_and_tested_before_it_is_published() -> None:
    jobs = yaml.safe_load(RELEASE.read_text())["jobs"]
    runs = [step.get("run", "") for step in jobs["build"]["steps"]]
    checked, tested, built = (
        next(number for number, run in enumerate(runs) if text in run)
        for text in (".github/release_notes.py", "make test-package", "-m build")
    )
    assert checked < tested < built
    assert jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["notes"]["needs"] == "publish"
    assert "--notes-file release_notes.md" in jobs["notes"]["steps"][-1]["run"]


def test_release_notes_are_the_section_of_the_changelog() -> None:
    changelog = (
        "# Changelog\n\n## 1.1.0 (2026-12-01)\n\n- New.\n\n## 1.0.0 (2026-11-01)\n\n- Old.\n"
    )
    assert release_notes("v1.1.0", "1.1.0", changelog) == "- New."
    assert release_notes("v1.0.0", "1.0.0", changelog) == "- Old."
    for tag, version, text, message in (
        ("v1.1.0", "1.0.0", changelog, "tag v1.0.0 instead"),
        ("v1.2.0", "1.2.0", changelog, "add a section for version 1.2.0"),
        ("v1.0.0", "1.0.0", "## 1.0.0 (unreleased)\n\n- Old.\n", "give the date"),
        ("v1.0.0", "1.0.0", "## 1.0.0 (2026-11-01)\n", "is empty"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            release_notes(tag, version, text)


def test_an_unreleased_version_has_no_release_notes() -> None:
    command = [sys.executable, str(NOTES), f"v{PROJECT['version']}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    unreleased = f"## {PROJECT['version']} (unreleased)" in (ROOT / "CHANGELOG.md").read_text()
    assert (result.returncode, bool(result.stdout)) == ((1, False) if unreleased else (0, True))


def test_the_project_has_addresses() -> None:
    assert all(url.startswith("https://") for url in PROJECT["urls"].values())


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_file_pins_every_dependency_within_its_bounds(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines)
    pinned = dict(line.split("==") for line in lines)
    asked = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    for requirement in map(Requirement, asked):
        assert pinned[normalised(requirement.name)] in requirement.specifier, requirement
    assert [f"{name}=={pinned[name]}" for name in ("torch", "torchvision")] == TORCH.split()


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_templates_lead_to_pages_that_exist() -> None:
    templates = [ROOT / ".github/PULL_REQUEST_TEMPLATE.md"]
    templates += (ROOT / ".github/ISSUE_TEMPLATE").iterdir()
    assert len(templates) == 4
    for template in templates:
        text = template.read_text()
        assert all((ROOT / page).is_file() for page in re.findall(r"docs/\w+\.md|[A-Z]+\.md", text))
        if template.suffix == ".yml":
            yaml.safe_load(text)


def test_hooks_before_a_commit_are_those_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = MAKEFILE.split("\nlint: install\n")[1].split("\n\n")[0].splitlines()
    tools = {re.sub(r" --check| \.$| Snakefile workflow", "", line.strip()) for line in lint}
    assert {hook["entry"] for hook in hooks} == tools
    assert len(tools) == 6
