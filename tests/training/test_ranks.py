"""Batches over several devices: the same steps as one process, and one end for all ranks."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from torch import Tensor

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import canonical, normalise
from mobile_sam.data.sampling.dataset import Sample
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from mobile_sam.training import checkpoint
from mobile_sam.training.batches import epoch_batches
from mobile_sam.training.run import launch_fabric, new_fabric, train_run
from mobile_sam.training.signals import Interrupted
from mobile_sam.training.step import TrainingModule
from tests.helpers.training_processes import log_of, start, start_ranks, train_ranks, wait_for
from tests.helpers.training_runs import RANDOM

Make = Callable[..., RunConfig]
# Float32 rounds otherwise in each order of summation, and Adam makes that noise as large as a step
# wherever the true gradient is 0. BatchNorm statistics of a part of a batch are others, too.
EXACT: dict[str, Any] = {
    "precision": "64-true",
    "freeze_batchnorm": True,
    "batch_size": 4,
    "num_epochs": 2,
    **RANDOM,
}


def content(config: RunConfig) -> dict[str, Any]:
    return checkpoint.load(RunPaths(config).checkpoint(normalise(config)[-1]))


def metrics(config: RunConfig) -> pd.DataFrame:
    table = pd.read_csv(RunPaths(config).metrics(normalise(config)[-1]))
    return table.drop(columns=["seconds", "images_per_s"])


def largest_difference(first: RunConfig, second: RunConfig) -> float:
    """Of any two numbers in what the runs have learned."""
    one, two = (content(config)["learner"] for config in (first, second))
    assert one.keys() == two.keys()
    return max((one[k].double() - two[k].double()).abs().max().item() for k in one)


def test_each_image_counts_once_in_its_step() -> None:
    """Whatever the number of ranks: weights of a step are those of the mean of its images."""
    batches = epoch_batches(11, batch_size=4, accumulation=2, seed=3, epoch=1)
    assert [len(batch) for batch in batches.batches] == [4, 4, 3]
    assert sorted(np.concatenate(batches.batches)) == list(range(11))
    for ranks in (1, 2, 3, 4):
        seen = np.zeros(11)
        for number in range(len(batches)):
            for rank in range(ranks):
                part = batches.part(number, rank, ranks)
                assert len(part) > 0  # every rank takes part in every step
                seen[part] += batches.weights(number, rank, ranks).numpy() / ranks
        first = np.concatenate(batches.batches[:2])
        assert seen[first] == pytest.approx(1 / 8)
        assert seen[batches.batches[2]] == pytest.approx(1 / 3)


def test_an_epoch_has_an_order_of_its_own() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(epoch_batches(9, 4, 1, seed, epoch).batches).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


@pytest.mark.parametrize(("images", "steps"), [(1, 1), (8, 1), (9, 2), (16, 2), (17, 3)])
def test_steps_are_those_of_the_optimiser(images: int, steps: int) -> None:
    batches = epoch_batches(images, 4, 2, 0, 0)
    assert batches.steps == steps
    assert sum(batches.ends_step(number) for number in range(len(batches))) == steps


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("fraction", [None, 0.3])
def test_supervision_is_a_mean_over_the_labelled_images_of_a_step(
    ranks: int, accumulation: int, fraction: float | None
) -> None:
    """By hand: what each image of a step counts, summed over batches, and averaged over ranks."""
    batches = epoch_batches(11, 4, accumulation, 3, 1, labelled=3, labelled_fraction=fraction)
    for first in range(0, len(batches), accumulation):
        numbers = range(first, min(first + accumulation, len(batches)))
        supervised = distilled = 0.0
        labelled = sum((batches.batches[number] % 11 < 3).sum() for number in numbers)
        for number in numbers:
            for rank in range(ranks):
                part = batches.part(number, rank, ranks)
                weights = batches.weights(number, rank, ranks).numpy() / ranks
                distilled += weights.sum()
                supervised += batches.per_labelled(number) * weights[part % 11 < 3].sum()
        assert distilled == pytest.approx(1)
        assert supervised == pytest.approx(1 if labelled else 0)


def test_a_share_of_each_batch_has_masks() -> None:
    """30 of 600, half of each batch: 143 batches of 4 and 4, in which each labelled one is drawn
    19 or 20 times, each time as another sample."""
    batches = epoch_batches(600, 8, 1, 0, 5, labelled=30, labelled_fraction=0.5)
    assert len(batches) == batches.steps == 143
    drawn = np.concatenate(batches.batches)
    assert len(drawn) == len(set(drawn)) == 8 * 143
    assert all((batch % 600 < 30).sum() == 4 for batch in batches.batches)
    times = np.bincount(drawn % 600, minlength=600)
    assert set(times[:30]) == {19, 20}
    assert set(times[30:]) == {1, 2}
    assert times[30:].sum() == 572
    assert set(range(600)) <= set(drawn)  # first of all as any epoch draws them
    for epoch, equal in ((5, True), (6, False)):
        again = epoch_batches(600, 8, 1, 0, epoch, labelled=30, labelled_fraction=0.5)
        assert np.array_equal(np.concatenate(again.batches), drawn) == equal


@pytest.mark.parametrize(("fraction", "with_masks"), [(0.01, 1), (0.5, 2), (0.99, 3)])
def test_a_batch_has_images_of_both_kinds(fraction: float, with_masks: int) -> None:
    batches = epoch_batches(20, 4, 1, 0, 0, labelled=15, labelled_fraction=fraction)
    assert {int((batch % 20 < 15).sum()) for batch in batches.batches} == {with_masks}
    assert {len(batch) for batch in batches.batches} == {4}
    assert set(np.concatenate(batches.batches) % 20) == set(range(20))
    plain = epoch_batches(20, 4, 1, 0, 0, labelled=20, labelled_fraction=fraction)
    assert np.array_equal(plain.batches, epoch_batches(20, 4, 1, 0, 0).batches)


def test_accumulated_batches_are_one_large_batch(tiny: Make) -> None:
    """10 images: two full steps, and a last one of 2 images in one batch."""
    whole = tiny(run_name="whole", **EXACT)
    halves = tiny(run_name="halves", **EXACT | {"batch_size": 2, "gradient_accumulation": 2})
    for config in (whole, halves):
        train_run(config)
    assert largest_difference(whole, halves) < 1e-12
    pd.testing.assert_frame_equal(metrics(whole), metrics(halves), rtol=1e-9)
    assert metrics(whole)["step"].tolist() == [3, 6]


def test_a_last_group_with_a_batch_that_is_smaller(tiny: Make) -> None:
    """10 images in batches of 4, 4 and 2, against one of 8 and a last one of 2."""
    whole = tiny(run_name="whole", **EXACT | {"batch_size": 8})
    halves = tiny(run_name="halves", **EXACT | {"gradient_accumulation": 2})
    uneven = tiny(run_name="uneven", **EXACT | {"batch_size": 3, "gradient_accumulation": 4})
    ten = tiny(run_name="ten", **EXACT | {"batch_size": 10})
    for config in (whole, halves, uneven, ten):
        train_run(config)
    assert largest_difference(whole, halves) < 1e-12
    assert largest_difference(uneven, ten) < 1e-12
    assert largest_difference(whole, ten) > 1e-6


DISTIL: dict[str, Any] = {
    "use_distill": True,
    "teacher_features": "online",
    "distill_losses": {"mse": 1, "cosine": 1, "mask_bce": 1},
}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_learn_what_one_learns(
    accumulation: int, tiny: Make, unlabelled: Path
) -> None:
    """With a batch of 3, of which the ranks see 2 and 1, and a last one of which one sees none.

    In 64 bits: in 32, rounding noise where the true gradient is 0 becomes whole steps of Adam.
    """
    changes: dict[str, Any] = {"batch_size": 3, "gradient_accumulation": accumulation}
    images = 10
    if accumulation > 1:
        changes |= DISTIL | {"ema_decay": 0.9, "unlabelled_img_dir": str(unlabelled)}
        changes |= {"augment": {"flip": True}, "batch_size": 7}
        images = 15
    assert images % changes["batch_size"] == 1
    one, two = (tiny(run_name=f"{n}", devices=n, **EXACT | changes) for n in (1, 2))
    train_run(one)
    train_ranks(two)
    assert largest_difference(one, two) < 1e-5
    pd.testing.assert_frame_equal(metrics(one), metrics(two), rtol=1e-5)
    if accumulation > 1:
        assert metrics(one)["distill_mask_bce"].gt(0).all()
        averages = [content(config)["average"] for config in (one, two)]
        assert all(torch.allclose(averages[0][k], averages[1][k], atol=1e-5) for k in averages[0])


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_killed_it_goes_on_with_another_number_of_devices(
    before: int, after: int, tiny: Make
) -> None:
    settings = EXACT | {"batch_size": 3, "save_every_minutes": 0, "num_epochs": 3}
    undisturbed = tiny(run_name="undisturbed", **settings)
    train_run(undisturbed)
    config = tiny(run_name="killed", **settings, devices=before)
    processes = start_ranks(config) if before > 1 else [start(config)]
    wait_for(config, processes[0], epoch=1, batch=1)
    for process in processes:
        process.kill()
        process.join()
    config = config.model_copy(update={"devices": after})
    if after > 1:
        train_ranks(config)
    else:
        train_run(config)
        assert not RunPaths(config).state(normalise(config)[0]).joinpath("resume.pt").exists()
    assert largest_difference(config, undisturbed) < 1e-5
    pd.testing.assert_frame_equal(metrics(config), metrics(undisturbed), rtol=1e-5)


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_any_rank_saves_once_and_ends_all(asked: int, tiny: Make) -> None:
    config = tiny(**EXACT | {"num_epochs": 50, "save_every_minutes": 0, "devices": 2})
    processes = start_ranks(config)
    wait_for(config, processes[0], epoch=1)
    os.kill(processes[asked].pid or 0, signal.SIGTERM)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [Interrupted().code, 0]
    assert (
        log_of(config).count("received a signal to end; run the same command again to continue")
        == 1
    )
    assert RunPaths(config).state(normalise(config)[0]).joinpath("resume.pt").is_file()


def _second_rank_finds_no_number() -> None:
    original = TrainingModule.forward

    def forward(self: TrainingModule, batch: Sample) -> dict[str, Tensor]:
        losses = original(self, batch)
        if os.environ["RANK"] == "1":
            losses = losses | {"loss": losses["loss"] * math.nan}
        return losses

    TrainingModule.forward = forward  # type: ignore[method-assign]


def test_a_loss_of_one_rank_that_is_not_finite_ends_all_with_the_sentence(tiny: Make) -> None:
    config = tiny(**EXACT | {"devices": 2, "batch_size": 2})
    processes = start_ranks(config, before=_second_rank_finds_no_number)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [1, 0]
    log = log_of(config)
    assert log.count("the loss is nan in epoch 1, batch 1 (images scene_") == 1
    assert log.count("scene_") == 1  # the image of the second rank alone
    assert "Traceback" not in log


def _second_rank_has_an_infinite_gradient() -> None:
    original = TrainingModule.forward

    def forward(self: TrainingModule, batch: Sample) -> dict[str, Tensor]:
        losses = original(self, batch)
        if os.environ["RANK"] == "1":
            losses["loss"].register_hook(lambda gradient: gradient * math.inf)
        return losses

    TrainingModule.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize(("accumulation", "images"), [(1, 4), (2, 2)])
def test_a_gradient_of_one_rank_that_is_not_finite_ends_all_with_the_sentence(
    accumulation: int, images: int, tiny: Make
) -> None:
    """It names the images of that rank, or of all where their gradients have been added up."""
    config = tiny(**EXACT | {"devices": 2, "gradient_accumulation": accumulation})
    processes = start_ranks(config, before=_second_rank_has_an_infinite_gradient)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [1, 0], log_of(config)
    log = log_of(config)
    assert log.count(" in epoch 1, batch 1 (images scene_") == 1
    assert "a gradient is nan" in log or "a gradient is inf" in log
    assert log.count("scene_") == images
    assert "Traceback" not in log
    assert not list(RunPaths(config).run.glob("st*/*/*.pt"))


def test_early_stopping_is_one_decision(tiny: Make) -> None:
    still = {"learning_rate": 1e-300, "early_stopping": 2, "num_epochs": 9}
    config = tiny(**EXACT | still | {"devices": 2})
    train_ranks(config)
    assert len(metrics(config)) == 3


def command(config: RunConfig, *launcher: str) -> subprocess.CompletedProcess[str]:
    path = RunPaths(config).settings
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.model_dump_json(exclude={"schema_file"}))
    return subprocess.run(
        [*launcher, "-m", "mobile_sam", "train", "--config", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_the_command_line_starts_the_processes_itself_or_leaves_it_to_torchrun(tiny: Make) -> None:
    """Over two stages, the second of which begins in the same processes."""
    two_stages = {"stage_schedule": [{"start_epoch": 0, "end_epoch": 1}]}
    settings = EXACT | two_stages
    one, fabric, torchrun = (
        tiny(run_name=name, devices=devices, **settings)
        for name, devices in (("one", 1), ("fabric", 2), ("torchrun", 2))
    )
    train_run(one)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for result in (
        command(fabric, sys.executable),
        command(torchrun, *launcher, "--nproc_per_node", "2"),
    ):
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("stage 01_finetune is finished") == 1
    assert largest_difference(one, fabric) < 1e-5
    assert largest_difference(one, torchrun) < 1e-5


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
def test_a_rank_does_not_outlive_the_first(tiny: Make) -> None:
    config = tiny(**EXACT | {"devices": 2, "num_epochs": 500, "save_every_minutes": 0})
    path = RunPaths(config).settings
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.model_dump_json(exclude={"schema_file"}))
    first = subprocess.Popen(
        [sys.executable, "-m", "mobile_sam", "train", "--config", str(path)],
        stderr=subprocess.DEVNULL,
    )
    resume = RunPaths(config).state(normalise(config)[0]) / "resume.pt"
    _wait(lambda: resume.is_file() or first.poll() is not None)
    others = psutil.Process(first.pid).children(recursive=True)
    assert len(others) == 1
    first.kill()
    first.wait()
    _, alive = psutil.wait_procs(others, timeout=10)
    assert alive == []


def _wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_weights": {"iou": 0, "dice": 0}},
        {"labelled_fraction": 0.5, "distill_losses": {"mse": 1, "cosine": 0, "relation": 1}},
        {"batch_size": 2},  # often without any labelled image on a rank
    ],
    ids=["weights-of-0", "fraction", "few-labelled"],
)
def test_two_processes_learn_what_one_learns_where_not_all_is_reached(
    changes: dict[str, Any], tiny: Make, unlabelled: Path
) -> None:
    features = {"mse": 1, "cosine": 1}
    common = EXACT | {"use_distill": True, "teacher_features": "online", "distill_losses": features}
    common |= {"unlabelled_img_dir": str(unlabelled), "num_epochs": 1}
    one, two = (tiny(run_name=f"{n}", devices=n, **common | changes) for n in (1, 2))
    train_run(one)
    train_ranks(two)
    assert largest_difference(one, two) < 1e-5
    pd.testing.assert_frame_equal(metrics(one), metrics(two), rtol=1e-5)


def test_fewer_images_than_devices_are_refused_at_once(tiny: Make) -> None:
    for changes in ({"devices": 5}, {"devices": 2, "num_nodes": 3}):
        config = tiny(batch_size=4, **changes)
        with pytest.raises(ConfigError, match="batch_size: 4 is less than devices x num_nodes"):
            train_run(config)


def test_more_devices_than_gpus_are_refused(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="devices: 2, but only 1 GPUs are visible"):
        launch_fabric(tiny(devices=2))


SLURM = {"SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "4711", "SLURM_PROCID": "3"}
SLURM |= {"SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NODELIST": "n[1-2]"}


def test_slurm_starts_the_processes_of_several_tasks(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SLURM | {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}).items():
        monkeypatch.setenv(name, value)
    fabric = new_fabric(tiny(devices=2, num_nodes=2), "cpu")
    environment = fabric.strategy.cluster_environment  # type: ignore[attr-defined]
    assert isinstance(environment, SLURMEnvironment)
    assert (environment.world_size(), environment.global_rank()) == (4, 3)
    assert (environment.local_rank(), environment.node_rank()) == (1, 1)
    assert fabric.strategy.num_nodes == 2  # type: ignore[attr-defined]


def test_in_one_task_of_slurm_the_process_starts_the_others(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SLURM | {"SLURM_NTASKS": "1"}).items():
        monkeypatch.setenv(name, value)
    fabric = new_fabric(tiny(devices=2), "cpu")
    environment = fabric.strategy.cluster_environment  # type: ignore[attr-defined]
    assert isinstance(environment, LightningEnvironment)
    assert not environment.creates_processes_externally


def test_tasks_that_do_not_fit_the_settings_are_refused(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SLURM | {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"devices: 2, num_nodes: 1: .*ntasks-per-node=4"):
        launch_fabric(tiny(devices=2))


def test_the_number_of_devices_is_no_reason_to_train_again(tiny: Make) -> None:
    one, two = tiny(), tiny(devices=2, num_nodes=2)
    assert canonical(one, normalise(one)[0]) == canonical(two, normalise(two)[0])


def test_devices_are_a_reason_where_batchnorm_statistics_freeze_because_of_them(tiny: Make) -> None:
    """8 images a device are enough, 4 are not; what the key says counts, and not how."""
    given = {"checkpoint": "mobile_sam", "batch_size": 8, "model_type": "vit_t"}

    def settings(**changes: Any) -> str:
        config = parse_config(tiny().model_dump(exclude={"schema_file"}) | given | changes, "test")
        return canonical(config, normalise(config)[0])

    assert settings() != settings(devices=2)
    assert settings() == settings(freeze_batchnorm=False)
    assert settings(devices=2) == settings(freeze_batchnorm=True, devices=4)


def test_batchnorm_is_not_synchronised_on_cpus(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="sync_batchnorm: true needs GPUs"):
        train_run(tiny(devices=2, sync_batchnorm=True))
    train_run(tiny(sync_batchnorm=True))
