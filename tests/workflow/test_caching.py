"""What Snakemake would run again after a change, and what it would not."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mobile_sam.training import checkpoint
from tests.helpers.commands import snakemake
from tests.helpers.equality import equal_states
from tests.helpers.workflow_projects import Project, changed


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("caching"), scenes)
    project.run()
    assert project.would_run() == set()
    return project


@pytest.fixture
def project(finished: Project) -> Iterator[Project]:
    """The finished project; the test may change its file and its images."""
    images = {p: p.read_bytes() for p in finished.data.rglob("*.png")}
    times = {p: p.stat().st_mtime_ns for p in images}
    yield finished
    for path in set(finished.data.rglob("*.png")) - set(images):
        path.unlink()
    for path, content in images.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
        os.utime(path, ns=(times[path], times[path]))
    finished.write(finished.settings)


LATER = {"train_01_finetune", "export_my", "report_my"}
LATER |= {"validate_01_finetune", "validate_01_finetune_best"}
TRAINING = LATER | {"train_00_distill", "validate_00_distill", "validate_00_distill_best"}
READY = {"ready_00_distill"}


def test_on_two_cores_all_training_goes_before_validation(finished: Project) -> None:
    run = finished.directory / "results" / "mobile_sam" / "my"
    trained = (run / "stages" / "01_finetune" / "checkpoint.pt").stat().st_mtime
    tables = [table.stat().st_mtime for table in (run / "validation").glob("*.parquet")]
    assert len(tables) == 7
    assert min(tables) > trained


def test_editing_stage_2_trains_stage_2(project: Project) -> None:
    project.write(changed(project.settings, 1, learning_rate=0.5))
    assert project.would_run() == LATER


def test_editing_stage_1_trains_both(project: Project) -> None:
    project.write(changed(project.settings, 0, lambda_coef=2.0))
    assert project.would_run() == TRAINING | READY


def test_a_report_option_redraws_the_report(project: Project) -> None:
    project.write(project.settings | {"report_examples": 2})
    assert project.would_run() == {"report_my"}


def test_a_threshold_validates_again_and_trains_nothing(project: Project) -> None:
    project.write(project.settings | {"mask_threshold": 0.3})
    again = project.would_run()
    assert "report_my" in again
    assert not any(name.startswith("train") for name in again)
    assert sum(name.startswith("validate") for name in again) == 6
    assert "baseline_box_filled" not in again


def test_the_best_checkpoint_is_exported_without_training(project: Project) -> None:
    project.write(project.settings | {"use_checkpoint": "best"})
    assert project.would_run() == {"export_my", "report_my"}


def test_another_start_trains_the_stage_that_starts_from_it(project: Project) -> None:
    project.write(changed(project.settings, 1, start_from="best"))
    assert project.would_run() == LATER
    project.write(changed(project.settings, 0, start_from="best"))  # it starts from no stage
    assert project.would_run() == set()


def test_style_of_the_json_changes_nothing(project: Project) -> None:
    reordered = dict(reversed(project.settings.items()))
    reordered["stage_schedule"] = [dict(reversed(e.items())) for e in reordered["stage_schedule"]]
    reordered["learning_rate"] = 0.00100
    project.write(reordered, indent=8)
    assert project.would_run() == set()


@pytest.mark.parametrize(
    "changes",
    [{"num_workers": 2}, {"save_every_minutes": 3}, {"devices": 2, "num_nodes": 2}],
    ids=["workers", "saves", "devices"],
)
def test_speed_and_safety_change_nothing(changes: dict[str, Any], project: Project) -> None:
    project.write(project.settings | changes)
    assert project.would_run() == set()


def test_more_extraction_jobs_train_nothing(project: Project) -> None:
    project.write(project.settings | {"extract_jobs": 2})
    assert not any(name.startswith("train") for name in project.would_run())


def test_extract_jobs_is_the_number_of_jobs(scenes: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "new", scenes)
    project.write(project.settings | {"extract_jobs": 3})
    jobs = [name for name in project.would_run() if name.startswith("extract")]
    assert len(jobs) == 3
    assert all(name.endswith("_of_3") for name in jobs)


def test_online_nothing_is_extracted(scenes: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "new", scenes)
    extraction = ("plan_features", "extract", "features")
    assert any(name.startswith(extraction) for name in project.would_run())
    project.write(project.settings | {"teacher_features": "online"})
    jobs = project.would_run()
    assert "train_00_distill" in jobs
    assert not any(name.startswith(extraction) for name in jobs)


def test_a_moved_store_is_looked_at_and_trains_nothing(project: Project) -> None:
    (store,) = project.directory.glob("results/mobile_sam/shared/*/features/*.zarr")
    moved = shutil.copytree(store, project.directory / "elsewhere" / "features.zarr")
    project.write(project.settings | {"train_img_dir_teacher_features": str(moved)})
    jobs = {name.split("_")[0] for name in project.would_run()}
    assert jobs == {"plan", "extract", "features", "ready"}


@pytest.mark.parametrize(
    "changes",
    [
        {"feature_views": ["identity", "hflip"]},
        {"lambda_coef": 3.0},  # its only stage that distils has one of its own
        {"data": {"val_fraction": 0.3, "split_seed": 4}},  # there is a validation directory
    ],
    ids=["views", "weight", "split"],
)
def test_settings_without_an_effect_train_nothing(
    changes: dict[str, Any], project: Project
) -> None:
    project.write(changed(project.settings, 0, lambda_coef=1.0) | changes)
    assert not any(name.startswith("train") for name in project.would_run())


def test_a_version_of_the_data_stands_for_its_files(scenes: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "new", scenes)
    project.write(project.settings | {"data": {"revision": "1"}})
    (index,) = (name for name in project.would_run() if name.startswith("index"))
    project.run("--until", index)
    next(project.data.glob("train/image/*.png")).unlink()
    assert index not in project.would_run()
    project.write(project.settings | {"data": {"revision": "2"}})
    assert index in project.would_run()


def test_a_touched_directory_changes_nothing(project: Project) -> None:
    (project.data / "train" / "image").touch()
    (project.data / "train" / "mask").touch()
    assert project.would_run() == set()


def test_an_added_image_is_indexed_extracted_and_trained_on(project: Project) -> None:
    Image.new("RGB", (64, 64)).save(project.data / "train" / "image" / "new.png")
    again = project.would_run()
    assert again >= TRAINING
    for verb in ("index", "plan_features", "extract"):
        assert any(name.startswith(verb) for name in again), verb


def test_an_added_image_without_masks_trains_the_stage_that_distils(project: Project) -> None:
    images = project.data / "more" / "image"
    images.touch()
    assert project.would_run() == set()
    Image.new("RGB", (64, 64)).save(images / "new.png")
    again = project.would_run()
    assert again >= TRAINING
    for verb in ("index", "plan_features", "extract"):
        assert any(name.startswith(verb) for name in again), verb
    stages = project.directory / "results/mobile_sam/my/stages"
    assert "12 images, " in (stages / "00_distill/train.log").read_text()
    assert "10 images, " in (stages / "01_finetune/train.log").read_text()


def test_a_rewritten_mask_counts_as_new_data(project: Project) -> None:
    path = next((project.data / "train" / "mask").rglob("*.png"))
    path.write_bytes(path.read_bytes())
    os.utime(path)
    assert project.would_run() >= TRAINING


def test_a_second_run_of_the_same_teacher_extracts_nothing(project: Project) -> None:
    other = project.directory / "other.json"
    other.write_text(json.dumps(project.settings | {"run_name": "other", "learning_rate": 0.02}))
    result = snakemake(project.directory, "-n", "--config", f"run={other}")
    assert "train_other_00_distill" in result.stdout + result.stderr
    for verb in ("extract_", "plan_features", "index_"):
        assert f"rule {verb}" not in result.stdout + result.stderr


def test_killed_in_stage_2_the_same_command_ends_in_the_same_weights(
    finished: Project, scenes: Path, tmp_path: Path
) -> None:
    """SIGKILL of the training process under Snakemake, then the same command again."""
    outcomes = []
    for name, kill in (("undisturbed", False), ("killed", True)):
        project = Project(tmp_path / name, scenes)
        settings = changed(project.settings, 1, end_epoch=12)
        project.write(settings | {"num_epochs": 12, "save_every_minutes": 0})
        project.run("--until", "train_my_00_distill")
        if kill:
            _kill_in_stage_2(project)
        project.run("--until", "train_my_01_finetune")
        path = project.directory / "results/mobile_sam/my/stages/01_finetune/checkpoint.pt"
        outcomes.append(checkpoint.load(path)["learner"])
    log = tmp_path / "killed/results/mobile_sam/my/stages/01_finetune/train.log"
    assert "resuming at epoch" in log.read_text()
    assert equal_states(*outcomes)


def _kill_in_stage_2(project: Project) -> None:
    running = project.start("--until", "train_my_01_finetune")
    resume = project.directory / "results/mobile_sam/my/stages/01_finetune/state/resume.pt"
    deadline = time.monotonic() + 600
    while not (resume.is_file() and checkpoint.load(resume)["progress"]["epoch"] >= 3):
        assert running.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    trainers = project.trainers(running)
    assert trainers
    for process in trainers:
        process.send_signal(signal.SIGKILL)
    assert running.wait() == 1
    assert not (
        project.directory / "results/mobile_sam/my/stages/01_finetune/checkpoint.pt"
    ).exists()
