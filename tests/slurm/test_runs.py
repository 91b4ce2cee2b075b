"""Whole runs on a cluster: many jobs, several processes, and the results of one machine."""

import shutil
from pathlib import Path

import pytest
import torch

from mobile_sam.training import checkpoint
from tests.helpers.equality import equal_states
from tests.helpers.slurm_cluster import Cluster
from tests.helpers.slurm_workflows import LONG, Submitted, run_locally

pytestmark = pytest.mark.slurm

NAMES = ("distill_then_finetune", "finetune_then_distill")
PROJECT = Path("results/mobile_sam")
WEIGHTS = [PROJECT / f"{name}-tiny" / "weights.pt" for name in NAMES]


def test_two_runs_share_one_extraction_and_end_in_the_weights_of_one_machine(
    cluster: Cluster, tmp_path: Path
) -> None:
    """With two jobs for the extraction and for each validation, to the report of the first."""
    settings = (f"run={','.join(NAMES)}", "overlay=tiny", "extract_jobs=2", "validate_jobs=2")
    local, submitted = tmp_path / "local", Submitted(tmp_path / "submitted")
    local.mkdir()
    run_locally(local, *WEIGHTS, "--config", *settings)
    report = PROJECT / f"{NAMES[0]}-tiny" / "report" / "index.html"
    submitted.start(report, *WEIGHTS, "--config", *settings)
    submitted.wait(900)
    assert (submitted.directory / report).is_file()
    rules = [path.name for path in (submitted.directory / ".snakemake/slurm_logs").iterdir()]
    assert sum(name.startswith("rule_extract_") for name in rules) == 2
    assert sum(name.startswith("rule_features_") for name in rules) == 1
    for name in NAMES:
        assert len(submitted.logs(f"train_{name}_tiny_00_{name.split('_')[0]}")) == 1
    assert (
        len([name for name in rules if "validate_distill_then_finetune_tiny_start_" in name]) == 2
    )
    for weights in WEIGHTS:
        one, other = (
            torch.load(directory / weights, weights_only=True)
            for directory in (local, submitted.directory)
        )
        assert equal_states(one, other)


def test_halving_decides_on_a_cluster_as_on_one_machine(cluster: Cluster, tmp_path: Path) -> None:
    settings = (
        *(f"run={NAMES[0]}", "overlay=tiny", "protocols=[box]"),
        *('sweep={"finetune.learning_rate": [0.0003, 0.001, 0.01]}', 'sweep_stop={"epochs": [3]}'),
    )
    local, submitted = tmp_path / "local", Submitted(tmp_path / "submitted")
    local.mkdir()
    run_locally(local, "--config", *settings)
    submitted.start("--config", *settings)
    submitted.wait(900)
    sweep = PROJECT / "sweeps" / f"{NAMES[0]}-tiny"
    for file in ("rungs/epoch_3.json", "report/variants.csv", "report/stopped.csv"):
        one, other = ((d / sweep / file).read_text() for d in (local, submitted.directory))
        assert one == other
    weights, same = (
        sorted(path.parent.name for path in directory.glob(f"{PROJECT}/*/weights.pt"))
        for directory in (local, submitted.directory)
    )
    assert weights == same
    assert len(weights) == 2 + 1, "two of three variants, and the teacher"


EXACT = (
    *("--config", "run=mobileSAM", "overlay=tiny", "num_epochs=2", "val_images=0"),
    *("precision=64-true", "freeze_batchnorm=true"),
)


@pytest.fixture(scope="module")
def one_process(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("one_process") / "project"
    shutil.copytree(prepared, directory)
    run_locally(directory, *LONG.target, *EXACT)
    return directory


@pytest.mark.parametrize(
    ("devices", "num_nodes", "processes"),
    [(2, 1, "a process of the job"), (1, 2, "a task on each node"), (2, 2, "two on each")],
)
def test_several_processes_learn_what_one_learns(
    devices: int, num_nodes: int, processes: str, submitted: Submitted, one_process: Path
) -> None:
    ranks = (f"devices={devices}", f"num_nodes={num_nodes}")
    # The nodes of the test are one machine, whose names for them nobody resolves.
    submitted.start(*LONG.target, *EXACT, *ranks, MASTER_ADDR="127.0.0.1")
    submitted.wait()
    (log,) = submitted.attempts()
    assert log.count(f"MEMBER: {devices * num_nodes}/{devices * num_nodes}") >= 1
    assert log.count("stage 00_finetune is finished") == 1
    one, other = (
        checkpoint.load(directory / LONG.checkpoint)["learner"]
        for directory in (one_process, submitted.directory)
    )
    assert max((one[k] - other[k]).abs().max() for k in one) < 1e-5
