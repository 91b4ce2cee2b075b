"""Snakemake killed, and Snakemakes side by side: nothing is damaged, and the results are equal."""

import os
import random
import signal
import subprocess
import time

import pytest

from tests.helpers.disturbed_commands import Running, kill_all
from tests.helpers.fault_projects import Copy, Project

pytestmark = pytest.mark.faults

WEIGHTS = "results/mobile_sam/my/weights.pt"  # both stages and the export, without what follows


def begun(project: Project, name: str, running: "subprocess.Popen[str] | Running") -> None:
    """Wait until a file of the run is there."""
    process = running.process if isinstance(running, Running) else running
    deadline = time.monotonic() + 120
    while not (project.run / name).exists():
        alive = process.poll() is None if isinstance(process, subprocess.Popen) else True
        assert alive, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_snakemake_killed_with_its_jobs_goes_on_after_unlock(
    copy: Copy, undisturbed: Project
) -> None:
    """Three times, each at a random moment of the training and what follows."""
    project = copy(without="train")
    for verb in ("export", "validate"):
        project.remove(verb)
    others = project.files("train", "export", "validate", "report")
    rng = random.Random(0)
    for name in (
        "stages/00_distill/state/resume.pt",
        "stages/01_finetune/state/resume.pt",
        "weights.pt",
    ):
        running = project.start_snakemake()
        begun(project, name, running)
        time.sleep(rng.uniform(0, 0.1))
        kill_all(running)
        refused = project.snakemake()
        assert refused.status == 1
        assert "--unlock" in refused.output
        assert project.snakemake("--unlock").status == 0
    project.finish_workflow()
    assert project.differing(undisturbed) == project.missing(undisturbed) == []
    assert project.files("train", "export", "validate", "report") == others
    assert project.would_run() == set()


def test_snakemake_asked_to_end_waits_for_its_job_and_leaves_no_lock(
    copy: Copy, undisturbed: Project
) -> None:
    project = copy(without="train")
    project.remove("export")
    running = project.start_snakemake(WEIGHTS)
    begun(project, "stages/00_distill/state/resume.pt", running)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=120)
    assert (project.run / "stages/00_distill/checkpoint.pt").is_file()
    assert not (project.run / "weights.pt").exists()
    assert project.snakemake(WEIGHTS).status == 0
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


def test_a_second_snakemake_in_the_directory_is_refused(copy: Copy, undisturbed: Project) -> None:
    project = copy(without="train")
    project.remove("export")
    running = project.start_snakemake(WEIGHTS)
    begun(project, "stages/00_distill/state", running)
    second = project.snakemake(WEIGHTS)
    assert second.status == 1
    assert "Directory cannot be locked" in second.output
    assert "--unlock" in second.output
    assert running.poll() is None, "it had ended before the second began"
    output, _ = running.communicate()
    assert running.returncode == 0, output
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


def test_two_snakemakes_in_two_directories_share_results(copy: Copy, undisturbed: Project) -> None:
    """Neither lock of Snakemake is known to the other; the lock of the trainer is.

    Both may fail: a Snakemake removes what its failed job was to write, also where the other has.
    """
    first, second = copy(without="train"), copy()
    first.remove("export")
    results = first.directory / "results"
    target = str(results / "mobile_sam/my/weights.pt")
    running = first.start_snakemake(target, output_dir=str(results))
    begun(first, "stages/00_distill/state/resume.pt", running)
    other = second.snakemake(target, output_dir=str(results))
    output, _ = running.communicate()
    for said in (output, other.output):
        assert "Traceback" not in said, said
    assert second.snakemake(target, output_dir=str(results)).status == 0
    assert first.differing(undisturbed) == first.missing(undisturbed) == []


@pytest.mark.parametrize("verb", ["index", "extract", "validate", "report"])
def test_the_same_verb_twice_at_once_leaves_the_same_results(
    verb: str, copy: Copy, undisturbed: Project
) -> None:
    project = copy(without=verb)
    for running in [project.start(verb), project.start(verb)]:
        ended = running.wait()
        assert ended.status == 0, ended.output
    assert project.differing(undisturbed) == project.missing(undisturbed) == []
    assert project.unfinished() == []


def test_a_second_trainer_is_refused_and_harms_nothing(copy: Copy, undisturbed: Project) -> None:
    project = copy(without="train")
    running = project.start("train")
    begun(project, "stages/00_distill/state/resume.pt", running)
    os.kill(running.process.pid or 0, signal.SIGSTOP)
    sentence = project.verb("train").sentence
    os.kill(running.process.pid or 0, signal.SIGCONT)
    assert running.wait().status == 0
    assert "another process is training this stage" in sentence
    assert project.differing(undisturbed) == project.missing(undisturbed) == []
