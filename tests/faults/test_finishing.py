"""Jobs that are ended between any two steps of finishing: no work is done twice."""

import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.helpers.disturbed_commands import kill_all
from tests.helpers.fault_projects import Copy, Project
from tests.helpers.stopping import POINTS, Stop, stop_at

pytestmark = pytest.mark.faults

STAGE = "01_finetune"
EPOCHS = ["3", "4"]


def target(project: Project) -> str:
    """The checkpoint of the last stage, as Snakemake names it."""
    return str(project.stage(STAGE).relative_to(project.directory) / "checkpoint.pt")


def epochs(output: str) -> list[str]:
    """The epochs that a workflow has trained."""
    return re.findall(r"epoch (\d+) done", output)


def job(running: "subprocess.Popen[str]", verb: str) -> psutil.Process:
    """The process of the verb that Snakemake runs."""
    (found,) = (
        process
        for process in psutil.Process(running.pid).children(recursive=True)
        if process.cmdline()[1:4] == ["-m", "mobile_sam", verb]
    )
    return found


def stopped(project: Project, stop: Stop, target: str) -> "subprocess.Popen[str]":
    """A Snakemake whose job waits at a stopping point."""
    running = project.start_snakemake(target, environment=stop.environment)
    stop.wait(lambda: running.poll() is None)
    return running


def ended(running: "subprocess.Popen[str]") -> str:
    output, _ = running.communicate(timeout=120)
    return output


def kill_the_job(running: "subprocess.Popen[str]", stop: Stop, verb: str) -> str:
    job(running, verb).kill()
    stop.release()
    output = ended(running)
    assert running.returncode == 1
    return output


def kill_snakemake(running: "subprocess.Popen[str]", stop: Stop, verb: str) -> str:
    """The job is then asked to end, and has the time to."""
    left = job(running, verb)
    running.kill()
    running.wait()
    stop.release()
    psutil.wait_procs([left], timeout=30)
    return ended(running)


def kill_both(running: "subprocess.Popen[str]", stop: Stop, verb: str) -> str:
    output = kill_all(running)
    stop.release()
    return output


def ask_the_job(running: "subprocess.Popen[str]", stop: Stop, verb: str) -> str:
    job(running, verb).send_signal(signal.SIGTERM)
    stop.release()
    return ended(running)


Victim = Callable[["subprocess.Popen[str]", Stop, str], str]


@pytest.fixture
def project(copy: Copy) -> Project:
    """One whose last stage is not trained."""
    project = copy()
    (project.run / "weights.pt").unlink()
    shutil.rmtree(project.stage(STAGE))
    return project


def finish(project: Project, target: str) -> str:
    """The same command again, and `--unlock` where Snakemake asks for it."""
    project.snakemake("--unlock")
    last = project.snakemake(target)
    assert last.status == 0, last.output[-3000:]
    return last.output


@pytest.mark.parametrize("kill", [kill_the_job, kill_both])
def test_killed_at_one_point_after_the_other_a_stage_is_trained_once(
    kill: Victim, project: Project, undisturbed: Project, tmp_path: Path
) -> None:
    output = ""
    for point in POINTS:
        stop = stop_at(tmp_path, point)
        output += kill(stopped(project, stop, target(project)), stop, "train")
        project.snakemake("--unlock")
    last = finish(project, target(project))
    assert "results are restored" in last
    assert epochs(output + last) == EPOCHS
    assert project.differing(undisturbed, "train") == project.missing(undisturbed, "train") == []


@pytest.mark.parametrize("end", [kill_the_job, kill_snakemake, ask_the_job])
@pytest.mark.parametrize("point", [POINTS[0], POINTS[2], POINTS[4], POINTS[7], POINTS[-1]])
def test_ended_once_a_stage_is_trained_once(
    point: str, end: Victim, project: Project, undisturbed: Project, tmp_path: Path
) -> None:
    stop = stop_at(tmp_path, point)
    output = end(stopped(project, stop, target(project)), stop, "train")
    output += finish(project, target(project))
    assert epochs(output) == EPOCHS
    assert project.differing(undisturbed, "train") == project.missing(undisturbed, "train") == []


@pytest.mark.parametrize("end", [kill_the_job, kill_snakemake, kill_both])
@pytest.mark.parametrize(
    "point",
    ["results are made", "results are kept", "start.parquet is in place", "the work is done"],
)
def test_a_table_that_was_measured_is_not_measured_again(
    point: str, end: Victim, copy: Copy, undisturbed: Project, tmp_path: Path
) -> None:
    project, stop = copy(without="validate"), stop_at(tmp_path, point)
    target = "results/mobile_sam/my/validation/start.parquet"
    end(stopped(project, stop, target), stop, "validate")
    assert "start: was measured before; the table is restored" in finish(project, target)
    assert project.differing(undisturbed, "validate") == []


@pytest.mark.parametrize("end", [kill_the_job, kill_both])
def test_features_that_were_computed_are_not_computed_again(
    end: Victim, copy: Copy, undisturbed: Project, tmp_path: Path
) -> None:
    project, stop = copy(without="extract"), stop_at(tmp_path, "the work is done")
    (part,) = (path.name for path in undisturbed.results.glob("shared/*/features/*.part0of1.json"))
    (directory,) = undisturbed.results.glob("shared/*/features")
    target = str(directory.relative_to(undisturbed.directory) / part)
    # The plan comes first, and is done when it stops there too.
    (plan,) = (path.name for path in directory.glob("*.plan.json"))
    assert project.snakemake(str(directory.relative_to(undisturbed.directory) / plan)).status == 0
    end(stopped(project, stop, target), stop, "extract")
    assert "features 1" not in finish(project, target)
    assert project.differing(undisturbed, "extract") == []
