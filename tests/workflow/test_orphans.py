"""What is left of a training whose Snakemake was killed."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from mobile_sam.training import checkpoint
from tests.helpers.workflow_projects import Project, changed


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
def test_a_trainer_does_not_outlive_snakemake_and_saves_before_it_ends(
    scenes: Path, tmp_path: Path
) -> None:
    """SIGKILL of Snakemake, which can tell its jobs nothing; then the same command goes on."""
    project = Project(tmp_path / "project", scenes)
    settings = changed(project.settings, 1, end_epoch=2000)
    project.write(settings | {"num_epochs": 2000, "save_every_minutes": 60})
    run = project.directory / "results/mobile_sam/my"
    project.run("--until", "train_my_00_distill")
    running = project.start()
    log, resume = run / "stages/01_finetune/train.log", run / "stages/01_finetune/state/resume.pt"
    deadline = time.monotonic() + 600
    while not (log.is_file() and "done in" in log.read_text()):
        assert running.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    trainers = project.trainers(running)
    assert trainers
    assert not resume.exists()
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(trainers, timeout=30)
    assert alive == []
    assert "received a signal to end; run the same command again to continue" in log.read_text()
    assert checkpoint.load(resume)["progress"]["step"] > 0
