"""Results that were moved, and clocks: what runs again, and that nothing is lost."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.fault_projects import Copy, Project

pytestmark = pytest.mark.faults

DAY = 86_400_000_000_000  # in nanoseconds


def shift(project: Project, days: float, *verbs: str) -> None:
    """Move the times of results of verbs (of all)."""
    tops = [top for verb in verbs for top in project.of_verb(verb)] or [project.results]
    for top in tops:
        for path in [top, *top.rglob("*")]:
            found = path.stat()
            times = (found.st_atime_ns, found.st_mtime_ns + int(days * DAY))
            os.utime(path, ns=times)


def test_a_moved_project_runs_nothing_again(copy: Copy, undisturbed: Project) -> None:
    project = copy()
    moved = Project(project.directory.with_name("moved"))
    shutil.move(project.directory, moved.directory)
    before = moved.files()
    assert moved.would_run() == set()
    assert moved.files() == before
    moved.remove("report")
    moved.finish("report")
    assert moved.differing(undisturbed) == moved.missing(undisturbed) == []


def test_a_renamed_output_dir_runs_nothing_again(copy: Copy, undisturbed: Project) -> None:
    project = copy()
    (project.directory / "results").rename(project.directory / "elsewhere")
    ended = project.snakemake("-n", output_dir="elsewhere")
    assert "Nothing to be done" in ended.output
    settings = json.loads((project.directory / "my.json").read_text())
    (project.directory / "my.json").write_text(json.dumps(settings | {"output_dir": "elsewhere"}))
    project.results = project.directory / "elsewhere" / "mobile_sam"
    project.run = project.results / "my"
    project.remove("report")
    assert project.would_run() == {"report_my"}
    project.finish_workflow()
    page = project.run / "report/index.html"  # it names the index by its path
    page.write_text(page.read_text().replace("elsewhere/", "results/"))
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


def test_a_project_that_is_copied_without_times_trains_nothing(
    copy: Copy, undisturbed: Project
) -> None:
    """As by `cp -r` or from an object store: each file has the time of its copy."""
    project = copy()
    for path in sorted(project.results.rglob("*"), reverse=True):
        os.utime(path)
    again = project.would_run()
    assert not any(name.startswith(("index", "extract", "plan")) for name in again), again
    touched = project.snakemake("--touch")
    assert touched.status == 0, touched.output
    assert project.would_run() == set()
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_was_wrong_throughout_runs_nothing_again(
    days: int, copy: Copy, undisturbed: Project
) -> None:
    """Times are only compared with each other."""
    project = copy()
    shift(project, days)
    assert project.would_run() == set()
    assert "Nothing to be done" in project.finish_workflow()
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


def test_a_clock_that_jumped_back_is_told_before_a_job_is_lost_to_it(
    copy: Copy, undisturbed: Project
) -> None:
    """Snakemake deletes what is older than its input when it is made, were it trained for days."""
    project = copy()
    path = project.stage("00_distill") / "checkpoint.pt"
    shift(project, 1, "train")
    project.remove("export")
    before = project.files("export", "validate", "report")
    ended = project.snakemake()
    assert ended.status == 1
    assert "Traceback" not in ended.output
    named = f"error: {path.relative_to(project.directory)}: was written in the future"
    assert named in ended.output
    assert project.files("export", "validate", "report") == before
    for path in sorted(project.results.glob("shared/stages/*/*")):
        path.touch()
    project.finish_workflow()
    assert project.differing(undisturbed) == project.missing(undisturbed) == []
    assert project.would_run() == set()


def test_what_is_older_than_its_input_is_made_again_to_the_same_bits(
    copy: Copy, undisturbed: Project
) -> None:
    """The clock jumped back between the stages, and is right again."""
    project = copy()
    for path in (project.run / "stages/00_distill").iterdir():
        path.touch()
    before = project.files("train", "export", "validate", "report")
    again = project.would_run()
    assert "train_01_finetune" in again
    assert not any(name.startswith(("train_00", "index", "extract", "plan")) for name in again)
    assert project.snakemake("results/mobile_sam/my/weights.pt").status == 0
    assert project.differing(undisturbed) == project.missing(undisturbed) == []
    assert project.files("train", "export", "validate", "report") == before
    assert project.snakemake("--touch").status == 0
    assert project.would_run() == set()


def test_data_that_is_moved_is_a_new_data_set_beside_the_old_one(
    scenes: Path, tmp_path: Path
) -> None:
    """What docs/reliability.md says is not covered: a data set is known by its absolute path."""
    project = Project(tmp_path / "project")
    project.directory.mkdir()
    shutil.copytree(scenes, project.directory / "data")
    project.write(Path("data"))
    project.finish("index")
    moved = Project(tmp_path / "moved")
    shutil.move(project.directory, moved.directory)
    before = moved.files()
    moved.finish("index")
    assert len(list(moved.results.glob("shared/*/index.parquet"))) == 2
    assert before.items() <= moved.files().items()
