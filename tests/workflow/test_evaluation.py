"""Validation by several jobs, beside other weights and with costs; and weights outside any run."""

from pathlib import Path

import pandas as pd
import pytest

from mobile_sam.config.checkpoints import checkpoint_names, exported_checkpoint
from mobile_sam.config.load import load_settings
from mobile_sam.evaluation.validate_run import validate
from mobile_sam.paths import RunPaths
from tests.helpers.commands import snakemake, verb

ASKED = (
    # One thread per job, like the tests: on some CPUs, sums over two threads round differently.
    *("--max-threads", "1"),
    *("--config", "run=mobileSAM", "overlay=tiny", "validate_jobs=2", "benchmark_repeats=1"),
    'compare=["run:demo_teacher"]',
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory where a run has been validated beside another."""
    directory = tmp_path_factory.mktemp("evaluation")
    result = snakemake(directory, *ASKED)
    assert result.returncode == 0, result.stderr[-3000:]
    return directory


@pytest.fixture
def paths(finished: Path, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    monkeypatch.chdir(finished)
    return RunPaths(load_settings(Path("results/mobile_sam/mobileSAM-tiny/run.json")))


def test_the_other_run_is_measured_as_by_itself(paths: RunPaths) -> None:
    assert checkpoint_names(paths.config)[-1] == "run_demo_teacher-tiny"
    table = pd.read_csv(paths.report / "summary.csv")
    assert set(checkpoint_names(paths.config)) - set(table["checkpoint"]) <= {"00_finetune_best"}
    other = RunPaths(load_settings(paths.project / "demo_teacher-tiny" / "run.json"))
    assert other.weights.is_file()
    validate(other.config, exported_checkpoint(other.config))
    ious = [
        pd.read_parquet(path)["iou"].tolist()
        for path in (
            paths.validation("run_demo_teacher-tiny"),
            other.validation(exported_checkpoint(other.config)),
        )
    ]
    assert ious[0] == ious[1]


def test_jobs_write_the_bytes_of_one(paths: RunPaths) -> None:
    assert paths.config.validate_jobs == 2
    assert not list((paths.run / "validation" / "parts").glob("*.parquet"))
    written = paths.validation("teacher").read_bytes()
    alone = paths.config.model_copy(update={"output_dir": "elsewhere"})
    target = RunPaths(alone)
    for path, source in (
        (target.index, paths.index),
        (target.teacher_weights, paths.teacher_weights),
    ):
        assert path is not None
        assert source is not None
        path.parent.mkdir(parents=True)
        path.write_bytes(source.read_bytes())
    validate(alone, "teacher")
    table = pd.read_parquet(target.validation("teacher"))
    pd.testing.assert_frame_equal(table, pd.read_parquet(paths.validation("teacher")))
    assert len(target.validation("teacher").read_bytes()) == len(written)


def test_cost_is_measured_as_often_as_is_asked_for(paths: RunPaths) -> None:
    costs = pd.read_csv(paths.cost)
    assert list(costs["checkpoint"]) == ["start", "teacher", "run_demo_teacher-tiny"]
    assert list(costs["architecture"]) == ["tiny_sam", "tiny_teacher_vit", "tiny_teacher_vit"]
    # A median of one time is that time.
    assert costs["encoder_ms_low"].equals(costs["encoder_ms_high"])
    assert (paths.report / "quality_and_cost.png").is_file()


def test_nothing_is_left_to_do_and_a_threshold_trains_nothing(
    finished: Path, paths: RunPaths
) -> None:
    again = snakemake(finished, *ASKED)
    assert "Nothing to be done" in again.stderr + again.stdout
    planned = snakemake(finished, "-n", *ASKED, "mask_threshold=0.5")
    text = planned.stderr + planned.stdout
    assert "rule train" not in text
    for what in checkpoint_names(paths.config)[1:]:
        assert f"validate_mobileSAM_tiny_{what.replace('-', '_')}" in text
    assert "baseline_mobileSAM_tiny_box_filled" not in text


def test_the_weights_are_worth_as_much_outside_the_run(paths: RunPaths, tmp_path: Path) -> None:
    result = verb(
        *("evaluate", "--weights", paths.weights, "--out", tmp_path / "out"),
        *("--images", paths.image_dir("val"), "--masks", paths.mask_dir("val")),
        *("--img-size", 64, "--benchmark-repeats", 1, "--protocols", "box", "point"),
    )
    assert result.returncode == 0, result.stderr
    assert "mobileSAM-tiny" in result.stdout
    outside = pd.read_parquet(tmp_path / "out" / "measurements" / "mobileSAM-tiny.parquet")
    inside = pd.read_parquet(paths.validation(exported_checkpoint(paths.config)))
    inside = inside[inside["prompt"].isin(["box", "point"])].reset_index(drop=True)
    assert len(outside) == len(inside) > 0
    for column in ("prompt", "segment_id", "iou", "boundary_iou", "predicted_iou"):
        assert outside[column].tolist() == inside[column].tolist()
    files = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")
    }
    assert {
        *("report/index.html", "report/quality_and_cost.csv", "inputs/index.parquet"),
        *("measurements/cost.csv", "measurements/box_filled.parquet"),
    } <= files


def test_weights_of_one_name_are_refused_before_any_work(paths: RunPaths, tmp_path: Path) -> None:
    result = verb(
        *("evaluate", "--weights", paths.weights, paths.weights, "--out", tmp_path / "out"),
        *("--images", paths.image_dir("val"), "--masks", paths.mask_dir("val")),
    )
    assert result.returncode == 1
    assert "'mobileSAM-tiny' is there already; rename one of them" in result.stderr
    assert not (tmp_path / "out").exists()
