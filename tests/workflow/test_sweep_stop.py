"""Successive halving in the workflow: variants that stop, and those that are trained to the end."""

import json
import time
from pathlib import Path

import pandas as pd
import pytest

from mobile_sam.config.load import load_settings
from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.sweeps import read_halving
from mobile_sam.training import checkpoint
from tests.helpers.commands import snakemake
from tests.helpers.equality import equal_states
from tests.helpers.workflow_projects import VARIANTS, Project, planned

RATES = [0.001, 0.01, 0.1, 1e30]  # the last one diverges


def halved(directory: Path, scenes: Path) -> Project:
    """Four rates, of which two continue after three epochs and one after four, of five."""
    project = Project(directory, scenes)
    schedule = [dict(entry) for entry in project.settings["stage_schedule"]]
    schedule[1]["end_epoch"] = 5
    settings = VARIANTS | {"replicates": 1, "num_epochs": 5, "stage_schedule": schedule}
    settings |= {"sweep": {"finetune.learning_rate": RATES}, "sweep_stop": {"epochs": [3, 4]}}
    project.write(project.settings | settings)
    return project


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Project:
    """Killed once with all processes while variants are trained to the first epoch."""
    project = halved(tmp_path_factory.mktemp("sweep_stop") / "p", scenes)
    running = project.start()
    while not list((project.directory / "results").rglob("rungs/epoch_3.json")):
        assert running.poll() is None
        time.sleep(0.05)
    project.kill(running)
    project.run()
    return project


def winner(project: Project) -> str:
    (name,) = read_halving(results(project) / "sweeps/my/sweep.json", 4).remaining
    return name


def results(project: Project) -> Path:
    return project.directory / "results" / "mobile_sam"


def test_only_the_best_combination_is_trained_to_the_end(finished: Project) -> None:
    sweep = results(finished) / "sweeps/my/sweep.json"
    first, second = read_halving(sweep, 3), read_halving(sweep, 4)
    assert first.scores["lr1e30"] is None
    assert second.scores.keys() == {name.removeprefix("my-") for name in first.remaining}
    known = {name: -iou for name, iou in first.scores.items() if iou is not None}
    assert first.remaining == [f"my-{name}" for name in sorted(sorted(known, key=known.get)[:2])]
    for rate in ("0.001", "0.01", "0.1", "1e30"):
        weights = results(finished) / f"my-lr{rate}" / "weights.pt"
        assert weights.exists() == (f"my-lr{rate}" == winner(finished))


def test_its_weights_are_those_of_a_run_of_its_own(
    finished: Project, scenes: Path, tmp_path: Path
) -> None:
    variant = load_settings(results(finished) / winner(finished) / "run.json")
    alone = Project(tmp_path / "alone", scenes)
    schedule = [entry.model_dump(exclude_none=True) for entry in variant.stage_schedule]
    changes = {"replicates": 1, "num_epochs": 5, "stage_schedule": schedule}
    alone.write(alone.settings | VARIANTS | changes)
    alone.run("--until", "train_my_01_finetune")
    own = results(alone) / "my/stages/01_finetune/checkpoint.pt"
    shared = RunPaths(variant).checkpoint(normalise(variant)[1])
    assert equal_states(checkpoint.load(own)["learner"], checkpoint.load(shared)["learner"])


def test_the_report_names_what_was_stopped_and_when(finished: Project) -> None:
    report = results(finished) / "sweeps/my/report"
    stopped = pd.read_csv(report / "stopped.csv")
    assert sorted(stopped["epoch"]) == [3, 3, 4]
    assert stopped.loc[stopped["combination"] == "lr1e30", "iou"].isna().all()
    assert len(pd.read_csv(report / "variants.csv")) == 1
    page = (report / "index.html").read_text()
    assert "3 of 4 combinations were stopped early" in page
    assert "Variants without results" not in page


def test_nothing_is_left_to_do_until_a_value_is_added(finished: Project) -> None:
    again = snakemake(finished.directory, "-n", "--config", f"run={finished.file}")
    assert "Nothing to be done" in again.stdout + again.stderr
    settings = json.loads(finished.file.read_text())
    settings["sweep"]["finetune.learning_rate"] = [*RATES, 0.02]
    finished.write(settings)
    assert planned(finished) == ["lr0_02_01_finetune_to_3"]
