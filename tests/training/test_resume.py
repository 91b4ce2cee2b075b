"""A stage that is ended on its way, by whatever and whenever: the same weights, bit for bit."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from mobile_sam.training import checkpoint
from mobile_sam.training.run import exclusive, train_run
from mobile_sam.training.signals import Interrupted
from tests.helpers.equality import equal, equal_states
from tests.helpers.runs import TWO_STAGES
from tests.helpers.training_processes import (
    end_in_last_stage,
    killed_at_random,
    log_of,
    start,
    train,
    wait_for,
)
from tests.helpers.training_runs import RANDOM, results, trained, weights

Make = Callable[..., RunConfig]


def test_stages_in_processes_of_their_own_equal_one_process(tiny: Make) -> None:
    """`train` for each stage, against one `train` without `--stage`."""
    whole = tiny(run_name="whole", num_epochs=4, stage_schedule=TWO_STAGES)
    split = tiny(run_name="split", num_epochs=4, stage_schedule=TWO_STAGES)
    train(whole)
    for stage in normalise(split):
        train(split, "--stage", stage.directory)
    for number in range(2):
        assert equal_states(weights(whole, number), weights(split, number))


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (signal.SIGKILL, {}),
        (signal.SIGKILL, {"gradient_accumulation": 2}),
        (signal.SIGKILL, RANDOM),
        (signal.SIGKILL, {"num_workers": 2}),
        (signal.SIGTERM, {"gradient_accumulation": 2}),
        (signal.SIGINT, {}),
        (signal.SIGUSR1, {}),
    ],
    ids=[
        "kill",
        "kill-accumulating",
        "kill-all-random",
        "kill-workers",
        "term",
        "ctrl-c",
        "time-limit",
    ],
)
def test_killed_in_stage_2_ends_in_the_same_weights(
    tiny: Make, number: signal.Signals, changes: dict[str, Any]
) -> None:
    common: dict[str, Any] = {"num_epochs": 8, **changes}
    common["stage_schedule"] = [
        {**TWO_STAGES[0], "augment": {}},  # stored features show the unchanged image
        {"start_epoch": 2, "end_epoch": 8, "distillation": False},
    ]
    common["save_every_minutes"] = 0
    undisturbed = tiny(run_name="undisturbed", **common)
    killed = tiny(run_name="killed", **common)
    train(undisturbed)
    status = end_in_last_stage(killed, number, epoch=3)
    assert status == (-number if number == signal.SIGKILL else Interrupted().code)
    assert "resuming at epoch" in train(killed)
    assert equal_states(weights(killed), weights(undisturbed))
    columns = ["epoch", "step", "loss", "train_iou", "val_box_iou"]
    stage = normalise(killed)[1]
    tables = [pd.read_csv(RunPaths(c).metrics(stage))[columns] for c in (killed, undisturbed)]
    pd.testing.assert_frame_equal(*tables)
    assert not (RunPaths(killed).state(stage) / "resume.pt").exists()


def test_state_of_other_inputs_is_not_resumed(tiny: Make, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny(save_every_minutes=0, num_epochs=2)
    before = trained(config)
    (stage,) = normalise(config)
    paths = RunPaths(config)
    content = checkpoint.load(paths.checkpoint(stage))
    progress = {"epoch": 1, "batch": 0, "step": 3, "rows": []}
    checkpoint.save(
        paths.state(stage) / "resume.pt", content | {"key": "other", "progress": progress}
    )
    shutil.rmtree(paths.finished_stage(stage))
    paths.checkpoint(stage).unlink()
    with caplog.at_level("INFO"):
        assert equal_states(trained(config), before)
    assert "belongs to other settings or inputs; starting from scratch" in caplog.text


def test_a_second_trainer_of_a_stage_is_refused(tiny: Make) -> None:
    config = tiny(num_epochs=50, save_every_minutes=0, stage_schedule=TWO_STAGES)
    process = start(config)
    wait_for(config, process, epoch=3)
    for stage in (None, normalise(config)[-1].directory):
        with pytest.raises(ConfigError, match="another process is training this stage; wait for"):
            train_run(config, stage)
    process.kill()
    process.join()


def test_a_missing_checkpoint_of_the_stage_before_is_named(tiny: Make) -> None:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    with pytest.raises(
        ConfigError, match=r"stages/\w+/checkpoint\.pt: missing; train stage 00_distill"
    ):
        train_run(config, "01_finetune")


def test_a_checkpoint_that_is_not_ours_is_named(tiny: Make) -> None:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    path = RunPaths(config).checkpoint(normalise(config)[0])
    path.parent.mkdir(parents=True)
    torch.save({"model": {}}, path)
    with pytest.raises(ConfigError, match="not a checkpoint of mobile_sam"):
        train_run(config, "01_finetune")
    torch.save({"format": checkpoint.FORMAT, "version": 99}, path)
    with pytest.raises(ConfigError, match="format version 99"):
        train_run(config, "01_finetune")


# All that a resume state holds, in a stage that stops early.
EVERYTHING: dict[str, Any] = {
    **RANDOM,
    "precision": "16-mixed",
    "ema_decay": 0.9,
    "layer_decay": 0.8,
    "gradient_accumulation": 2,
    "batch_size": 2,
    "early_stopping": 3,
    "num_epochs": 9,
    "stage_schedule": [{"start_epoch": 0, "end_epoch": 3}],
}


def test_killed_at_ten_random_moments_it_ends_in_the_same_files(tiny: Make) -> None:
    """Weights, optimiser, moving average, loss scale, best epoch, counters and metrics."""
    undisturbed = tiny(run_name="undisturbed", **EVERYTHING)
    train(tiny(run_name="warm"))  # the first process takes seconds to begin
    began = time.monotonic()
    train(undisturbed)
    seconds = time.monotonic() - began
    killed = tiny(run_name="killed", **EVERYTHING, save_every_minutes=0)
    rng, kills = random.Random(4), 0
    while kills < 10:
        if killed_at_random(killed, seconds / 2, rng):
            for stage in normalise(killed):  # it was faster than ten kills: once more
                RunPaths(killed).checkpoint(stage).unlink()
                shutil.rmtree(RunPaths(killed).finished_stage(stage))
        else:
            kills += 1
    train(killed)
    assert log_of(killed).count("resuming at epoch") >= 2
    assert equal(results(killed), results(undisturbed))
    assert not list(RunPaths(killed).project.glob("shared/stages/**/.*"))


def _kill_in_a_save() -> None:
    """Between writing the temporary file and its place: of the resume state, the third time."""
    original, count = Path.replace, [0]

    def replace(self: Path, target: Any) -> Path:
        count[0] += Path(target).name == "resume.pt"
        if count[0] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]


def _kill_before_the_checkpoint() -> None:
    """All of a stage's results but the last are in place."""
    original = Path.replace

    def replace(self: Path, target: Any) -> Path:
        if Path(target).name == "checkpoint.pt":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("where", [_kill_in_a_save, _kill_before_the_checkpoint])
def test_killed_while_it_writes_nothing_is_torn_or_left(
    where: Callable[[], None], tiny: Make
) -> None:
    settings: dict[str, Any] = {"num_epochs": 3, "ema_decay": 0.9}
    undisturbed = tiny(run_name="undisturbed", **settings)
    train_run(undisturbed)
    config = tiny(run_name="killed", **settings, save_every_minutes=0)
    process = start(config, before=where)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (stage,) = normalise(config)
    directory = RunPaths(config).stage(stage)
    assert len(list(directory.glob("**/.*"))) == 1
    train(config)
    assert equal(results(config), results(undisturbed))
    assert not list(directory.glob("**/.*"))
    assert not list(RunPaths(config).state(stage).glob("*.pt"))


def test_workers_that_outlive_a_killed_trainer_do_not_hold_its_lock_and_end(tiny: Make) -> None:
    config = tiny(num_epochs=50, save_every_minutes=0, num_workers=2)
    process = start(config)
    wait_for(config, process, epoch=1)
    workers: list[psutil.Process] = []
    while len(workers) < 2:
        assert process.is_alive()
        workers = psutil.Process(process.pid).children()
    process.kill()
    process.join()
    with exclusive(RunPaths(config).lock(normalise(config)[0])):
        pass
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []


def test_a_signal_to_all_processes_of_a_job_ends_the_trainer_alone(tiny: Make) -> None:
    """As SLURM sends it: the workers read on until the trainer has saved."""
    config = tiny(num_epochs=500, num_workers=2, save_every_minutes=0)
    process = start(config)
    wait_for(config, process, epoch=1)
    workers = psutil.Process(process.pid).children()  # of training, and perhaps of a validation
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.terminate()
    wait_for(config, process, epoch=3)
    running = [worker for worker in workers if worker.is_running()]
    assert len([worker for worker in running if worker.status() != psutil.STATUS_ZOMBIE]) == 2
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    assert "received a signal to end; run the same command again to continue" in log_of(config)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_a_stage_that_pauses_at_an_epoch_ends_in_the_same_weights(tiny: Make) -> None:
    """Twice before its end, once at its end, which is not yet its checkpoint."""
    whole = tiny(run_name="whole", num_epochs=4, **RANDOM)
    paused = tiny(run_name="paused", num_epochs=4, **RANDOM)
    train_run(whole)
    (stage,) = normalise(paused)
    paths = RunPaths(paused)
    for epoch in (1, 3, 4):
        train_run(paused, "0", epoch)
        assert not paths.checkpoint(stage).exists()
    train_run(paused, "0")
    assert equal(results(whole), results(paused))
    metrics = pd.read_csv(paths.metrics(stage))
    for epoch in (1, 3, 4):
        found = json.loads(paths.rung(stage, epoch).read_text())
        row = metrics.iloc[epoch - 1]
        assert found["iou"] == pytest.approx((row["val_box_iou"] + row["val_point_iou"]) / 2)


def test_the_result_at_an_epoch_of_a_finished_stage_needs_no_training(tiny: Make) -> None:
    config = tiny(num_epochs=2)
    (stage,) = normalise(config)
    paths = RunPaths(config)
    train_run(config, "0", 1)
    before = paths.rung(stage, 1).read_text()
    train_run(config)
    modified = paths.checkpoint(stage).stat().st_mtime_ns
    paths.rung(stage, 1).unlink()
    train_run(config, "0", 1)
    assert paths.rung(stage, 1).read_text() == before
    assert paths.checkpoint(stage).stat().st_mtime_ns == modified
    assert not (paths.state(stage) / "resume.pt").exists()


def test_a_training_that_diverges_before_the_epoch_has_no_iou(tiny: Make) -> None:
    config = tiny(learning_rate=1e30, num_epochs=3, gradient_clip=0)
    train_run(config, "0", 2)
    found = json.loads(RunPaths(config).rung(normalise(config)[0], 2).read_text())
    assert found["iou"] is None
    assert "the loss is" in found["problem"]


@pytest.mark.parametrize("arguments", [(None, 1), ("0", 0), ("0", 3), ("1", 2)])
def test_an_epoch_outside_of_the_stage_is_named(
    tiny: Make, arguments: tuple[str | None, int]
) -> None:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    with pytest.raises(ConfigError, match=r"--until-epoch: .*stages are 00_distill, 0 to 2"):
        train_run(config, *arguments)
