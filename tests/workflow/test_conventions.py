"""Conventions of Snakemake workflows: linting, names, messages, thin rules, and deployment."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mobile_sam.pipeline.environment import IMAGE
from tests.helpers.commands import ROOT, snakemake

TINY = ("--config", "run=distill_then_finetune", "overlay=tiny")
FILES = [ROOT / "Snakefile", *sorted((ROOT / "workflow" / "rules").glob("*.smk"))]
RULE = re.compile(r"^( *)(?:rule(?: \w+)?|checkpoint):\n((?:\1 +.*\n|\n)+)", re.MULTILINE)
BODIES = [body for path in FILES for _, body in RULE.findall(path.read_text())]


def directives(body: str) -> dict[str, str]:
    """Directives of a rule, and the lines below each, without comments."""
    indent = " " * (len(body) - len(body.lstrip(" ")))
    parts = re.split(rf"^{indent}(\w+):", body, flags=re.MULTILINE)[1:]
    values = [re.sub(r"#.*", "", value) for value in parts[1::2]]
    return dict(zip(parts[::2], values, strict=True))


RULES = [directives(body) for body in BODIES]


SEVERAL_JOBS = ("benchmark_repeats=1", "validate_jobs=2", "extract_jobs=2")


@pytest.mark.parametrize("more", [(), SEVERAL_JOBS], ids=["plain", "jobs"])
def test_the_linter_of_snakemake_finds_nothing(more: tuple[str, ...], tmp_path: Path) -> None:
    linted = snakemake(tmp_path, "--lint", *TINY, *more)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_lowest_version_of_snakemake_is_that_of_the_package() -> None:
    (version,) = re.findall(r"^min_version\(\"([\d.]+)\"\)$", FILES[0].read_text(), re.MULTILINE)
    assert f'"snakemake>={version},<10"' in (ROOT / "pyproject.toml").read_text()


def test_every_rule_has_a_message_and_named_files() -> None:
    assert (
        len(RULES)
        == sum(len(re.findall("(?:rule|checkpoint):\n", path.read_text())) for path in FILES) + 1
    )
    for rule in RULES:
        assert rule["message"].strip(), rule
        for files in (rule.get("input", ""), rule.get("output", "")):
            entries = re.findall(r"(?:^|[\n,])\s+(\*\*\w|\w+=|[\w\[(])", files)
            top = [e for e in entries if e.endswith("=") or e.startswith("**")]
            assert not files.strip() or top, rule


def test_rules_decide_nothing() -> None:
    for rule in RULES:
        text = "\n".join(rule.values())
        assert not re.search(r"\b(if|else|and|or|not)\b", re.sub(r'"[^"]*"', "", text)), text
        assert "run" not in rule
        assert "script" not in rule


def test_every_rule_with_a_command_has_an_environment_for_conda() -> None:
    for rule in RULES:
        assert ("conda" in rule) == ("shell" in rule), rule
    assert "\ncontainer: IMAGE\n" in FILES[0].read_text()


def test_containers_are_used_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run with a stand-in for apptainer, which is not needed to plan."""
    stand_in(tmp_path / "bin" / "apptainer", "echo apptainer version 1.3.4")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    planned = snakemake(tmp_path, "-n", "--sdm", "apptainer", *TINY)
    assert planned.returncode == 0, planned.stderr
    assert f"{IMAGE} will be pulled" in planned.stdout + planned.stderr


def test_conda_makes_the_environment_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run with a stand-in for conda, which is not needed to plan."""
    facts = {"conda_prefix": str(tmp_path), "platform": "linux-64", "root_prefix": str(tmp_path)}
    facts |= {"conda_version": "25.1.0"}
    says = (
        f"case $1 in info) echo '{json.dumps(facts)}';; --version) echo conda 25.1.0;; "
        'config) echo \'{"get": {"channel_priority": "strict"}}\';; esac'
    )
    stand_in(tmp_path / "bin" / "conda", says)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    planned = snakemake(tmp_path, "-n", "--sdm", "conda", *TINY)
    assert planned.returncode == 0, planned.stderr
    assert "envs/mobile_sam.yml will be created" in planned.stdout + planned.stderr


def stand_in(path: Path, command: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


def test_the_catalog_knows_how_the_workflow_is_used() -> None:
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"] == {
        "conda": True,
        "apptainer": True,
        "apptainer+conda": False,
    }
    assert usage["mandatory-flags"]["flags"].startswith("--config run=")


MODULE = """
module segmentation:
    snakefile: "{snakefile}"
    config: {{"run": "mobileSAM", "overlay": "tiny"}}

use rule * from segmentation as segmentation_*

rule everything:
    default_target: True
    input: rules.segmentation_all.input
"""
HANDLER = """
onstart:
    segmentation.onstart()
"""


def as_module(directory: Path, *arguments: str, more: str = "") -> subprocess.CompletedProcess[str]:
    """Run a Snakefile in `directory` that has the workflow as a module, and the text `more`."""
    (directory / "Snakefile").write_text(MODULE.format(snakefile=ROOT / "Snakefile") + more)
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )


def test_a_snakefile_in_an_empty_directory_plans_the_workflow_as_a_module(tmp_path: Path) -> None:
    planned = as_module(tmp_path, "-n")
    assert planned.returncode == 0, planned.stderr
    assert "segmentation_train_mobileSAM_tiny_00_finetune" in planned.stdout + planned.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("more", ["", HANDLER], ids=["without", "with"])
def test_jobs_of_a_module_find_their_settings_with_and_without_a_handler(
    more: str, tmp_path: Path
) -> None:
    drawn = "segmentation_synthesize_synthetic_12_4_64px_seed0"
    done = as_module(tmp_path, "--until", drawn, more=more)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/mobile_sam/mobileSAM-tiny/run.json").is_file()
    (manifest,) = tmp_path.glob("results/mobile_sam/shared/*/synthetic.json")
    assert manifest.stat().st_size > 0


@pytest.mark.long
def test_a_module_runs_to_its_end(tmp_path: Path) -> None:
    done = as_module(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "report: results/mobile_sam/mobileSAM-tiny/report/index.html" in done.stdout
    again = as_module(tmp_path)
    assert "Nothing to be done" in again.stdout + again.stderr
