"""snakedeploy makes a project of a local clone; a minute, for snakedeploy is installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT
from tests.helpers.distributions import outside

pytestmark = pytest.mark.package


@pytest.fixture(scope="module")
def snakedeploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in an environment of its own."""
    environment = tmp_path_factory.mktemp("snakedeploy")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "snakedeploy"], check=True)
    return environment / "bin" / "snakedeploy"


def test_a_deployed_project_plans_the_run_that_its_config_names(
    snakedeploy: Path, tmp_path: Path
) -> None:
    clone, project = tmp_path / "clone", tmp_path / "project"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    project.mkdir()
    deployed = outside(
        [snakedeploy, "deploy-workflow", clone, project, "--branch", "main"], project
    )
    assert deployed.returncode == 0, deployed.stderr
    assert (project / "profiles" / "slurm" / "config.yaml").is_file()

    # As docs/workflow.md says: the full path of the Snakefile, and a run.
    snakefile = project / "workflow" / "Snakefile"
    text = snakefile.read_text()
    assert text.count('"Snakefile"') == 1
    snakefile.write_text(text.replace('"Snakefile"', f'"{clone / "Snakefile"}"'))
    (project / "config" / "config.yaml").write_text("run: mobileSAM\noverlay: tiny\n")
    planned = outside([sys.executable, "-m", "snakemake", "-n"], project)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "train_mobileSAM_tiny_00_finetune" in planned.stdout + planned.stderr
