"""Variants of a run, from the plan to the report: shared stages, failures, and one value more."""

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mobile_sam.config.load import load_settings
from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.training import checkpoint
from tests.helpers.commands import ROOT, snakemake
from tests.helpers.equality import equal_states
from tests.helpers.workflow_projects import VARIANTS, Project, planned

RATES = [0.001, 0.01]


def swept(directory: Path, scenes: Path, rates: list[float], **changes: Any) -> Project:
    project = Project(directory, scenes)
    settings = project.settings | VARIANTS | {"sweep": {"finetune.learning_rate": rates}}
    project.write(settings | changes)
    return project


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Project:
    """A sweep of two values and two seeds, killed once with all its processes."""
    project = swept(tmp_path_factory.mktemp("sweep") / "p", scenes, RATES)
    assert planned(project) == [
        *("lr0_001_seed0_00_distill", "lr0_001_seed0_01_finetune"),
        *("lr0_001_seed1_00_distill", "lr0_001_seed1_01_finetune"),
        *("lr0_01_seed0_01_finetune", "lr0_01_seed1_01_finetune"),
    ]
    running = project.start()
    while not project.trainers(running):
        assert running.poll() is None
        time.sleep(0.05)
    project.kill(running)
    project.run()
    return project


def test_common_stages_are_trained_once_for_each_seed(finished: Project) -> None:
    project = finished.directory / "results" / "mobile_sam"
    stages = [path.resolve() for path in project.glob("my-lr*/stages/*")]
    assert len(stages) == 8
    assert len(set(stages)) == 6
    assert len(list((project / "shared" / "stages").iterdir())) == 6


def test_a_variant_has_the_weights_of_a_run_of_its_own(
    finished: Project, scenes: Path, tmp_path: Path
) -> None:
    variant = load_settings(finished.directory / "results/mobile_sam/my-lr0.01-seed1/run.json")
    alone = Project(tmp_path / "alone", scenes)
    schedule = [entry.model_dump(exclude_none=True) for entry in variant.stage_schedule]
    settings = VARIANTS | {"replicates": 1, "seed": 1, "stage_schedule": schedule}
    alone.write(alone.settings | settings)
    alone.run("--until", "train_my_01_finetune")
    own = alone.directory / "results/mobile_sam/my/stages/01_finetune/checkpoint.pt"
    shared = RunPaths(variant).checkpoint(normalise(variant)[1])
    assert equal_states(checkpoint.load(own)["learner"], checkpoint.load(shared)["learner"])


@pytest.mark.long
def test_18_variants_killed_twice_train_each_stage_once(scenes: Path, tmp_path: Path) -> None:
    """3 rates, 2 losses, 3 seeds; then one rate more."""
    project = Project(tmp_path / "p", scenes)
    losses = [{"mse": 1, "cosine": 0}, {"mse": 0, "cosine": 1}]
    sweep = {"finetune.learning_rate": [1e-3, 3e-3, 1e-2], "distill.distill_losses": losses}
    shipped = json.loads((ROOT / "configs" / "distill_then_finetune.json").read_text())
    del shipped["$schema"]
    settings = shipped | {"sweep": sweep, "replicates": 3}
    project.write(settings)
    assert len(planned(project, "overlay=tiny")) == 1 + 2 * 3 + 18  # with the teacher
    stages = project.directory / "results/mobile_sam/shared/stages"
    made: dict[Path, int] = {}
    for enough in (3, 12):
        running = project.start("overlay=tiny")
        while len(list(stages.glob("*/checkpoint.pt"))) < enough:
            assert running.poll() is None
            time.sleep(0.05)
        project.kill(running, "overlay=tiny")
        made |= {path: path.stat().st_mtime_ns for path in stages.glob("*/checkpoint.pt")}
    project.run("overlay=tiny")
    assert len(list(stages.glob("*/checkpoint.pt"))) == 1 + 2 * 3 + 18
    unchanged = [path for path, time in made.items() if path.stat().st_mtime_ns == time]
    assert len(unchanged) >= len(made) - 2 * 2, "each kill may cost two finished jobs"
    sweep["finetune.learning_rate"] = [1e-3, 3e-3, 1e-2, 3e-2]
    project.write(settings)
    new = planned(project, "overlay=tiny")
    assert len(new) == 2 * 3
    assert all("lr0_03" in name and name.endswith("_01_finetune") for name in new)
    project.run("overlay=tiny")
    report = project.directory / "results/mobile_sam/sweeps/my-tiny/report"
    table = pd.read_csv(report / "variants.csv")
    assert len(table) == 8
    assert set(table["seeds"]) == {3}


def test_the_report_ranks_the_combinations(finished: Project) -> None:
    report = finished.directory / "results/mobile_sam/sweeps/my/report"
    table = pd.read_csv(report / "variants.csv")
    assert sorted(table["combination"]) == ["lr0.001", "lr0.01"]
    assert list(table["seeds"]) == [2, 2]
    assert list(table["miou"]) == sorted(table["miou"], reverse=True)
    page = (report / "index.html").read_text()
    assert "has the highest mean IoU" in page
    for name in ("ranking", "main_effects", "time", "learning"):
        assert (report / f"{name}.png").is_file()


def test_one_more_value_trains_its_own_variants_only(finished: Project) -> None:
    settings = json.loads(finished.file.read_text())
    settings["sweep"]["finetune.learning_rate"] = [*RATES, 0.1]
    finished.write(settings)
    assert planned(finished) == ["lr0_1_seed0_01_finetune", "lr0_1_seed1_01_finetune"]


def test_a_variant_that_fails_stops_no_other_and_is_named(scenes: Path, tmp_path: Path) -> None:
    """A rate of 1e30 ends in a loss that is not finite."""
    project = swept(tmp_path / "p", scenes, [0.001, 1e30], replicates=1)
    done = snakemake(project.directory, "--config", f"run={project.file}")
    assert done.returncode == 1
    results = project.directory / "results" / "mobile_sam"
    assert (results / "my-lr0.001" / "weights.pt").is_file()
    assert not (results / "my-lr1e30" / "weights.pt").exists()
    assert "without results: my-lr1e30" in done.stdout + done.stderr
    page = (results / "sweeps" / "my" / "report" / "index.html").read_text()
    assert "Variants without results" in page
    assert "my-lr1e30" in page


def test_latency_is_measured_once_for_each_size_of_student(scenes: Path, tmp_path: Path) -> None:
    project = swept(tmp_path / "p", scenes, RATES, benchmark_repeats=1)
    assert not costs_of(project)
    settings = json.loads(project.file.read_text())
    settings["sweep"]["iou_head_depth"] = [3, 2]
    project.write(settings)
    assert costs_of(project) == {"cost_lr0_001_ihd3_seed0", "cost_lr0_001_ihd2_seed0"}


def costs_of(project: Project) -> set[str]:
    return {name for name in project.would_run() if name.startswith("cost_")}


def test_folds_validate_each_image_once_and_share_features(scenes: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "p", scenes)
    settings = VARIANTS | {"replicates": 1, "folds": 2, "val_img_dir": None, "val_mask_dir": None}
    project.write(project.settings | settings)
    project.run()
    results = project.directory / "results" / "mobile_sam"
    images = {path.stem for path in (project.data / "train" / "image").iterdir()}
    validated: list[str] = []
    for fold in range(2):
        table = pd.read_parquet(results / f"my-fold{fold}" / "validation" / "01_finetune.parquet")
        validated += table["image_id"].unique().tolist()
    assert sorted(validated) == sorted(images)
    assert len(list(results.glob("shared/*/features/*.zarr"))) == 1
    said = snakemake(project.directory, "-n", "--config", f"run={project.file}")
    assert "Nothing to be done" in said.stdout + said.stderr
    table = pd.read_csv(results / "sweeps" / "my" / "report" / "variants.csv")
    assert list(table["combination"]) == ["the run"]
    assert f"{len(images)} images" in (results / "sweeps/my/report/index.html").read_text()
