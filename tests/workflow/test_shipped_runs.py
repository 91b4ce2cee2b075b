"""Every shipped run goes to its report under `overlay=tiny`, as a user would start it."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from mobile_sam.config.checkpoints import checkpoint_names
from mobile_sam.config.load import known_runs, resolve
from mobile_sam.paths import RunPaths, comparable_runs, comparison_directory
from tests.helpers.commands import snakemake


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory where all shipped runs have been through the workflow, in one command."""
    directory = tmp_path_factory.mktemp("shipped")
    result = snakemake(directory, "--config", f"run={','.join(known_runs())}", "overlay=tiny")
    assert result.returncode == 0, result.stderr[-3000:]
    for name in known_runs():
        assert f"run {name}-tiny" in result.stdout
    return directory


@pytest.mark.parametrize("name", known_runs())
def test_each_run_has_its_report(name: str, finished: Path) -> None:
    config = resolve(name, "tiny", {}).named[0]
    paths = RunPaths(config)
    table = pd.read_csv(finished / paths.report / "summary.csv")
    shown = list(table["checkpoint"].unique())
    # A best epoch that is the last one has no row of its own.
    assert shown == [what for what in checkpoint_names(config) if what in shown]
    assert all(what.endswith("_best") for what in set(checkpoint_names(config)) - set(shown))
    assert table["miou"].between(0, 1).all()
    assert (finished / paths.weights).is_file()
    assert "<h2" in (finished / paths.report / "index.html").read_text()


def test_runs_of_one_command_are_compared(finished: Path) -> None:
    configs = [resolve(name, "tiny", {}).named[0] for name in known_runs()]
    (together,) = comparable_runs(configs)
    table = pd.read_csv(finished / comparison_directory(together) / "summary.csv")
    names = list(table["checkpoint"].unique())
    assert {config.run_name for config in configs} <= set(names)
    assert "box_filled" in names
    assert (finished / comparison_directory(together) / "index.html").is_file()


def test_runs_share_one_index_and_extract_equal_features_once(finished: Path) -> None:
    assert len(list(finished.glob("results/*/shared/*/index.parquet"))) == 1
    # nuclei_small has features of mirrored images, too.
    assert len(list(finished.glob("results/*/shared/*/features/*.zarr"))) == 2


@pytest.mark.parametrize("name", known_runs())
def test_a_finished_run_has_nothing_to_do(name: str, finished: Path) -> None:
    result = snakemake(finished, "--config", f"run={name}", "overlay=tiny")
    assert "Nothing to be done" in result.stderr + result.stdout


def test_every_rule_has_its_log_and_benchmark(finished: Path) -> None:
    run = finished / "results/mobile_sam/distill_then_finetune-tiny"
    logs = {path.stem for path in (run / "logs").glob("*.log")}
    assert {"export", "validate_start", "report"} <= logs
    assert logs == {path.stem for path in (run / "benchmarks").glob("*.tsv")}
    assert (run / "stages/00_distill/train.tsv").is_file()
    assert "loss" in (run / "stages/01_finetune/train.log").read_text()


def test_a_single_file_is_a_target_too(tmp_path: Path) -> None:
    index = RunPaths(resolve("mobileSAM", "tiny", {}).named[0]).index
    result = snakemake(tmp_path, index, "--config", "run=mobileSAM,nuclei", "overlay=tiny")
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / index).is_file()


def test_snakemakes_own_report_works(finished: Path) -> None:
    result = snakemake(
        finished, "--report", "r.html", "--config", "run=distill_then_finetune", "overlay=tiny"
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert (finished / "r.html").stat().st_size > 100_000


@pytest.mark.parametrize("name", known_runs())
def test_a_dry_run_prints_the_chain(name: str, tmp_path: Path) -> None:
    result = snakemake(tmp_path, "-n", "--config", f"run={name}", "overlay=tiny")
    assert result.returncode == 0, result.stderr
    assert f"report_{name}_tiny" in result.stdout + result.stderr
    assert not (tmp_path / "results").exists()


def test_a_bare_command_is_the_demo(tmp_path: Path) -> None:
    bare = snakemake(tmp_path, "-n")
    assert "report_distill_then_finetune_demo" in bare.stdout + bare.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=nothing"], "error: run: 'nothing' is unknown; known runs: demo_teacher"),
        (["run=mobileSAM", "overlay=x"], "error: overlay: 'x' is unknown; known .*: demo, tiny"),
        (["run=mobileSAM", "overlay=tiny", "colour=red"], "error: .*unknown key 'colour'"),
        (["run=mobileSAM", "checkpoint=null"], "train_img_dir: .* put images there .*overlay=demo"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    import re

    result: subprocess.CompletedProcess[str] = snakemake(tmp_path, "--config", *arguments)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert "Traceback" not in result.stderr
