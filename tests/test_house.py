"""The house: environment.yml in step with pyproject.toml, and no unread rules."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.helpers.commands import ROOT

# The same package under the name that conda-forge gives it.
CONDA_NAMES = {
    "torch": "pytorch",
    "opencv-python-headless": "py-opencv",
    "snakemake": "snakemake-minimal",
}


def requirement(text: str) -> tuple[str, str]:
    name, limits = re.fullmatch(
        r"([A-Za-z0-9_.-]+?)((?:[<>=!~].*)?)", text.replace(" ", "")
    ).groups()
    return name.lower(), limits


def test_all_text_of_the_package_has_an_encoding() -> None:
    rule = [sys.executable, "-m", "ruff", "check", "--preview", "--select", "PLW1514"]
    command = [*rule, "--isolated", "--output-format=concise", str(ROOT / "mobile_sam")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_environment_yml_is_in_step_with_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    plain = dict(requirement(line) for line in environment if isinstance(line, str))
    pip = next(line["pip"] for line in environment if isinstance(line, dict))
    assert plain.pop("python") == project["requires-python"]
    plain.pop("pip")
    wanted = dict(map(requirement, project["dependencies"]))
    assert plain == {CONDA_NAMES.get(name, name): limits for name, limits in wanted.items()}
    assert pip == ["-e ."]


def test_the_environment_of_jobs_is_that_of_users_without_the_package() -> None:
    users = yaml.safe_load((ROOT / "environment.yml").read_text())
    jobs = yaml.safe_load((ROOT / "workflow/envs/mobile_sam.yml").read_text())
    assert jobs["channels"] == users["channels"]
    pip = [line for line in users["dependencies"] if line == "pip" or isinstance(line, dict)]
    assert jobs["dependencies"] == [line for line in users["dependencies"] if line not in pip]


def test_every_dependency_has_a_lower_and_an_upper_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        name, limits = requirement(line)
        assert re.fullmatch(r">=[\d.]+,<\d+", limits), f"{name}{limits}"
        assert version(name) in SpecifierSet(limits), "the tests run with another version"


def test_ci_runs_what_the_readme_says() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    for command in ("make demo", "make test"):
        assert command in readme
    assert "make test" in ci


def test_the_table_of_recipes_is_that_of_the_measurements() -> None:
    script = str(ROOT / "benchmarks" / "recipes.py")
    command = [sys.executable, script, "table"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "recipes.md").read_text()
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) > 40
    assert [line for line in page.splitlines() if line.startswith("|")] == rows


def test_recipes_take_their_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    recipes = importlib.import_module("recipes")
    costs = {"features": 2.0, "finetune": 5.0, "features_of_few": 0.5}
    both = recipes.values({"features": 0.25, "finetune": 0.75}, costs, 40)
    assert [e["end_epoch"] for e in both["stage_schedule"]] == [5, 11]
    assert both["num_epochs"] == 11
    assert "unlabelled_img_dir" not in both
    few = recipes.values({"features_of_few": 0.5, "finetune": 0.5}, costs, 40)
    assert [e["start_epoch"] for e in few["stage_schedule"]] == [0, 40]
    assert few["unlabelled_img_dir"] is None
    for scene in recipes.SCENES.values():
        assert set(scene.recipes) <= recipes.RECIPES.keys()


def test_tests_share_only_what_is_in_helpers() -> None:
    """Modules of tests and conftest.py are imported by no other module."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            found += [
                f"{path.relative_to(ROOT)}: {name}"
                for name in names
                if name.startswith("tests.") and not name.startswith("tests.helpers.")
            ]
    assert found == []
