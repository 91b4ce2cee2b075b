"""What a stage keeps: its last and its best epoch, and the moving average of its weights."""

import math
from collections.abc import Callable
from typing import Any, Literal

import pandas as pd
import pytest
import torch
from torch import nn

from mobile_sam.config.checkpoints import exported_checkpoint, stage_checkpoints
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.index.table import Index
from mobile_sam.evaluation.options import evaluation_options
from mobile_sam.evaluation.runner import measure_images
from mobile_sam.evaluation.validate_run import validate
from mobile_sam.models.detect_architecture import load_any
from mobile_sam.models.safe_load import load_file
from mobile_sam.models.student_teacher import start_student
from mobile_sam.models.weights import from_original
from mobile_sam.paths import RunPaths
from mobile_sam.training import checkpoint
from mobile_sam.training import stage as stage_module
from mobile_sam.training.export import export_weights, load_student
from mobile_sam.training.optim import moving_average
from mobile_sam.training.run import train_run
from mobile_sam.training.stage import StageTraining
from tests.helpers.equality import equal_states

Make = Callable[..., RunConfig]
# The best epoch of the first stage is its first: learning so fast makes everything worse.
TWO_STAGES: dict[str, Any] = {
    "num_epochs": 4,
    "stage_schedule": [{"start_epoch": 0, "end_epoch": 3}],
}


@pytest.fixture
def ious(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What validation finds, epoch by epoch; to be filled by the test."""
    found: list[float] = []
    monkeypatch.setattr(
        stage_module, "validation_iou", lambda *_: {"box": found[0], "point": found.pop(0)}
    )
    return found


def kept(config: RunConfig, which: Any, stage: int = 0) -> dict[str, Any]:
    return checkpoint.load(RunPaths(config).checkpoint(normalise(config)[stage], which))


def metrics(config: RunConfig, stage: int = 0) -> pd.DataFrame:
    return pd.read_csv(RunPaths(config).metrics(normalise(config)[stage]))


def test_the_best_epoch_is_kept_whole_beside_the_last(tiny: Make, ious: list[float]) -> None:
    ious += [0.2, 0.6, 0.6]
    config = tiny(num_epochs=3, ema_decay=0.5, lr_scheduler="constant")
    train_run(config)
    assert metrics(config)["best"].tolist() == [0, 1, 0]  # of equal ones the first
    ious += [0.2, 0.6]
    shorter = tiny(run_name="shorter", num_epochs=2, ema_decay=0.5, lr_scheduler="constant")
    shorter = shorter.model_copy(update={"warmup_fraction": 0.12})  # as many steps
    train_run(shorter)
    best, last = kept(config, "best"), kept(config, "last")
    for part in ("learner", "average"):
        assert equal_states(best[part], kept(shorter, "last")[part])
        assert not equal_states(best[part], last[part])
    assert (best["epoch"], best["step"], last["epoch"], last["step"]) == (2, 6, 3, 9)
    # A parameter makes no step that no gradient asks for.
    assert max(state["step"] for state in best["optimizer"]["state"].values()) == 6


def test_without_validation_images_the_last_is_the_best(tiny: Make) -> None:
    config = tiny(num_epochs=2, val_images=0)
    train_run(config)
    assert equal_states(kept(config, "best")["learner"], kept(config, "last")["learner"])
    assert metrics(config)["best"].tolist() == [0, 1]


@pytest.mark.parametrize("which", ["last", "best"])
def test_a_stage_starts_from_the_checkpoint_it_is_told(
    which: str, tiny: Make, ious: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights, optimiser, average and counters, before its first step."""
    ious += [0.6, 0.2, 0.1, 0.1]
    config = tiny(**TWO_STAGES, ema_decay=0.5, start_from=which)
    train_run(config, "00_finetune")
    started: list[dict[str, Any]] = []

    def epoch(self: StageTraining) -> None:
        state = self.checkpoints.state.content() | {"step": self.progress.step}
        started.append({"learner": {k: v.clone() for k, v in state["learner"].items()}} | state)
        raise KeyboardInterrupt

    monkeypatch.setattr(StageTraining, "_epoch", epoch)
    with pytest.raises(KeyboardInterrupt):
        train_run(config, "01_finetune")
    expected = kept(config, which)
    for part in ("learner", "average"):
        assert equal_states(started[0][part], expected[part])
    assert started[0]["step"] == expected["step"] == {"best": 3, "last": 9}[which]
    steps = {float(s["step"]) for s in started[0]["optimizer"]["state"].values()}
    assert max(steps) == expected["step"]


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("which", ["last", "best"])
def test_what_is_validated_and_exported_is_chosen(
    which: Literal["last", "best"], decay: float, tiny: Make, ious: list[float]
) -> None:
    ious += [0.6, 0.2, 0.1]
    config = tiny(num_epochs=3, use_checkpoint=which, ema_decay=decay)
    train_run(config)
    content = kept(config, which)
    state, prefix = (content["average"], "module.") if decay else (content["learner"], "student.")
    expected = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    model = start_student(config)
    paths = RunPaths(config)
    load_student(model, config, normalise(config)[0], which)
    assert equal_states(model.state_dict(), expected)
    export_weights(config)
    assert equal_states(
        from_original(model, load_file(RunPaths(config).weights)), dict(model.state_dict())
    )
    assert exported_checkpoint(config) == {"last": "00_finetune", "best": "00_finetune_best"}[which]
    tables = []
    for what in stage_checkpoints(config):
        validate(config, what)
        tables.append(pd.read_parquet(paths.validation(what)).drop(columns="checkpoint"))
    assert not tables[0].equals(tables[1])
    weights = load_any(paths.weights, config.img_size).eval()
    index = Index(paths.index, "val")
    found = measure_images(weights, index, range(len(index)), evaluation_options(config), "x")
    assert [row["iou"] for row in found] == tables[which == "best"]["iou"].tolist()


def test_the_average_by_hand() -> None:
    """The first update copies; then 2/11 of the average stays, then at most the decay."""
    model = nn.BatchNorm1d(1)
    average = moving_average(model, decay=0.25)
    expected = 1.0
    for update, value in enumerate([5.0, 1.0, 3.0, 8.0]):
        nn.init.constant_(model.weight, value)
        model.running_mean.fill_(value)  # type: ignore[union-attr]
        average.update_parameters(model)
        share = [0.0, 2 / 11, 0.25, 0.25][update]
        expected = share * expected + (1 - share) * value
        assert average.module.weight.item() == pytest.approx(expected)
        assert average.module.running_mean.item() == value
    assert average.n_averaged == 4
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_the_average_goes_on_from_stage_to_stage(tiny: Make) -> None:
    """Over its steps: as many updates, and the average of all, against one stage."""
    still = {"lr_scheduler": "constant", "warmup_steps": 0, "val_images": 0, "ema_decay": 0.9}
    split = tiny(run_name="split", **TWO_STAGES, **still)
    whole = tiny(run_name="whole", num_epochs=4, **still)
    for config in (split, whole):
        train_run(config)
    assert [kept(split, "last", stage)["average"]["n_averaged"] for stage in (0, 1)] == [9, 12]
    assert equal_states(kept(split, "last", 1)["average"], kept(whole, "last")["average"])
    learned = kept(whole, "last")["learner"]
    assert not torch.equal(
        kept(whole, "last")["average"]["module.mask_decoder.iou_token.weight"],
        learned["student.mask_decoder.iou_token.weight"],
    )


def test_the_average_is_what_is_validated_after_each_epoch(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def look(student: nn.Module, *_: Any) -> dict[str, float]:
        assert not student.training
        seen.append({name: value.clone() for name, value in student.state_dict().items()})
        return {"box": 0.5, "point": 0.5}

    monkeypatch.setattr(stage_module, "validation_iou", look)
    frozen = {"freeze": {"image_encoder": True}}  # whose embeddings are not those of the average
    for name, changes in (("all", {}), ("frozen", frozen)):
        config = tiny(run_name=name, ema_decay=0.9, **changes)
        train_run(config)
        average = kept(config, "last")["average"]
        assert equal_states(
            seen.pop(), {k.removeprefix("module."): average[k] for k in average if "module" in k}
        )


def test_a_step_that_the_loss_scale_skips_is_none_of_the_average(tiny: Make) -> None:
    """16-mixed begins with a scale of 2**16, at which these gradients overflow; it halves."""
    config = tiny(precision="16-mixed", ema_decay=0.9, num_epochs=3, loss_weights={"focal": 100.0})
    train_run(config)
    content = kept(config, "last")
    skipped = 16 - math.log2(content["precision"]["scale"])
    assert content["step"] == 9
    assert 0 < skipped < 9
    assert content["average"]["n_averaged"] == 9 - skipped
