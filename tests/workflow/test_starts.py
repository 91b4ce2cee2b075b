"""Runs that start from another run, or from one of its stages."""

import json
from pathlib import Path

import pytest

from mobile_sam.__main__ import main
from mobile_sam.config.load import load_settings
from mobile_sam.config.schedule import normalise
from mobile_sam.models.student_teacher import start_student
from mobile_sam.paths import RunPaths
from mobile_sam.training.export import load_student
from tests.helpers.commands import snakemake
from tests.helpers.equality import equal_states
from tests.helpers.workflow_projects import Project


@pytest.mark.parametrize("stage", ["", ":distill"])
def test_a_run_starts_from_another_that_is_trained_first(
    stage: str, scenes: Path, tmp_path: Path
) -> None:
    project = Project(tmp_path / "p", scenes)
    settings = project.settings | {"unlabelled_img_dir": None}
    project.write(settings)
    second = project.directory / "second.json"
    later = {"run_name": "second", "stage_schedule": [], "num_epochs": 1}
    second.write_text(json.dumps(settings | later | {"checkpoint": f"run:{project.file}{stage}"}))
    target = project.directory / "results/mobile_sam/second/weights.pt"
    done = snakemake(project.directory, str(target), "--config", f"run={second}")
    assert done.returncode == 0, done.stderr[-3000:]
    first, config = (load_settings(target.parents[1] / r / "run.json") for r in ("my", "second"))
    assert config.checkpoint == ("run:my:00_distill" if stage else "run:my")
    expected = start_student(first)
    load_student(expected, first, normalise(first)[0 if stage else 1], "last")
    assert equal_states(start_student(config).state_dict(), expected.state_dict())
    trained = RunPaths(first).stage_links.iterdir()
    assert len(list(trained)) == 2
    if stage:
        assert main(["export", "--config", str(RunPaths(first).settings), "--stage", "x"]) == 1
        second.write_text(json.dumps(settings | later | {"checkpoint": f"run:{project.file}:x"}))
        refused = snakemake(project.directory, "-n", "--config", f"run={second}")
        assert "the run has 0 stages of this name; its stages are 00_distill, 01_finetune" in (
            refused.stdout + refused.stderr
        )
