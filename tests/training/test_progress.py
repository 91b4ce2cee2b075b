"""How a stage is watched: metrics, TensorBoard, and lines in the log."""

import shutil
import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.training import progress
from mobile_sam.training.run import train_run
from tests.helpers.training_processes import start, train, wait_for

Make = Callable[..., RunConfig]


def curves(config: RunConfig) -> dict[str, list[tuple[int, float]]]:
    """Steps and values that TensorBoard would show, by tag."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (stage,) = normalise(config)
    found = module.EventAccumulator(str(RunPaths(config).tensorboard(stage)))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def metrics(config: RunConfig) -> pd.DataFrame:
    (stage,) = normalise(config)
    return pd.read_csv(RunPaths(config).metrics(stage))


def test_curves_are_those_of_the_metrics(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0)
    config = tiny(num_epochs=2)
    train_run(config)
    found, table = curves(config), metrics(config)
    for name in set(table.columns) - {"epoch", "step", "best"}:
        steps, values = zip(*found[f"epoch/{name}"], strict=True)
        assert steps == (3, 6)
        assert values == pytest.approx(table[name].tolist(), rel=1e-5)
    assert [step for step, _ in found["step/loss"]] == [1, 2, 3, 4, 5, 6]
    assert {"step/loss", "step/learning_rate", "step/images_per_s"} < set(found)


def _each_step_is_drawn() -> None:
    progress._LOG_SECONDS = 0


def test_after_a_kill_no_curve_doubles_or_has_a_hole(tiny: Make) -> None:
    config = tiny(num_epochs=6, save_every_minutes=0)
    process = start(config, before=_each_step_is_drawn)
    wait_for(config, process, epoch=2, batch=1)
    process.kill()
    process.join()
    train(config)
    steps = [step for step, _ in curves(config)["step/loss"]]
    assert steps[:7] == list(range(1, 8))
    assert steps == sorted(set(steps))
    assert [step for step, _ in curves(config)["epoch/loss"]] == [3, 6, 9, 12, 15, 18]


def test_a_stage_from_its_start_begins_the_curves_anew(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0)
    config = tiny(num_epochs=2)
    train_run(config)
    (stage,) = normalise(config)
    RunPaths(config).checkpoint(stage).unlink()
    shutil.rmtree(RunPaths(config).finished_stage(stage))
    train_run(config)
    assert [step for step, _ in curves(config)["step/loss"]] == [1, 2, 3, 4, 5, 6]


def test_without_tensorboard_there_are_metrics(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    config = tiny()
    train_run(config)
    assert not RunPaths(config).tensorboard(normalise(config)[0]).exists()
    assert len(metrics(config)) == 1


def test_an_epoch_is_a_line_and_a_row_before_the_stage_ends(
    tiny: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mobile_sam.training.stage as stage_module

    ious = [0.25, 0.5, 0.125]
    config = tiny(num_epochs=3)
    (stage,) = normalise(config)
    live: list[Any] = []

    def found(*_: Any) -> dict[str, float]:
        path = RunPaths(config).state(stage) / "metrics.csv"
        live.append(pd.read_csv(path)["best"].tolist() if path.is_file() else [])
        return {"box": ious[0], "point": ious.pop(0)}

    monkeypatch.setattr(stage_module, "validation_iou", found)
    with caplog.at_level("INFO"):
        train_run(config)
    lines = [message for message in caplog.messages if " done in " in message]
    assert len(lines) == 3
    assert "  loss " in lines[1]
    assert lines[1].endswith("val_box_iou 0.500  val_point_iou 0.500  best so far")
    assert lines[2].endswith("val_point_iou 0.125")
    assert live == [[], [1], [0, 1]]
    assert metrics(config)["best"].tolist() == [0, 1, 0]
