"""A stage: moved by every key that its rule depends on, and by nothing else."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mobile_sam.config import ConfigError, RunConfig, affects
from mobile_sam.layout import RunPaths
from mobile_sam.models.roles import start_student
from mobile_sam.models.state_files import load_file
from mobile_sam.schedule import normalise
from mobile_sam.training import checkpoint
from mobile_sam.training import stage as stage_module
from mobile_sam.training.export import export_weights
from mobile_sam.training.progress import NotFiniteError
from mobile_sam.training.run import train_run
from tests.conftest import TWO_STAGES, equal_states, prepare

Make = Callable[..., RunConfig]
# All that is drawn at random, at once.
RANDOM = {
    "prompts": {"box": 1, "point": 1, "interior_point": 1, "points": 1, "mask": 1},
    "prompt_rounds": 2,
    "augment": {"flip": True, "scale": 0.4, "brightness": 0.2, "contrast": 0.2, "hue": 0.1},
}


def weights(config: RunConfig, stage: int = -1) -> dict[str, torch.Tensor]:
    return checkpoint.load(RunPaths(config).checkpoint(normalise(config)[stage]))["learner"]


def exported(config: RunConfig) -> dict[str, torch.Tensor]:
    """What the run gives its user."""
    train_run(config)
    export_weights(config)
    return load_file(RunPaths(config).weights)


def trained(config: RunConfig) -> dict[str, torch.Tensor]:
    train_run(config)
    return weights(config)


def test_a_loss_that_is_not_finite_ends_training_with_the_images(tiny: Make) -> None:
    config = tiny(learning_rate=1e30, num_epochs=3, gradient_clip=0)
    message = r"the loss is (nan|inf) in epoch .*images scene_0.*lower learning_rate"
    with pytest.raises(NotFiniteError, match=message):
        train_run(config)
    assert not RunPaths(config).checkpoint(normalise(config)[0]).exists()


# The best epoch of the first stage is its first: learning so fast makes everything worse.
BEST_IS_THE_FIRST: dict[str, Any] = {
    "num_epochs": 3,
    "stage_schedule": [{"start_epoch": 0, "end_epoch": 2, "learning_rate": 0.3}],
}

ANSWERS = {"mask_bce": 1.0}
# What each key is changed to, and what else must be set for it to matter.
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "model_type": ("tiny_sam_se", {}),
    "checkpoint": ("weights.pt", {}),
    "decoder_from_teacher": (True, {}),
    "iou_head_depth": (2, {}),
    "iou_head_hidden_dim": (32, {}),
    "teacher_checkpoint": ("weights.pt", {"use_distill": True, "teacher_model_type": "tiny_sam"}),
    "teacher_model_type": ("tiny_sam", {"use_distill": True}),
    "more_teachers": (
        [{"checkpoint": "random", "model_type": "tiny_sam", "weight": 0.5}],
        {"use_distill": True},
    ),
    "distill_feature_level": (["neck", 2], {"use_distill": True}),
    "teacher": ("online", {"use_distill": True}),
    "feature_dtype": ("int8", {"use_distill": True}),
    "distill_losses": (ANSWERS, {"use_distill": True}),
    "use_distill": (True, {}),
    "lambda_coef": (3.0, {"use_distill": True}),
    "num_epochs": (2, {}),
    "stage_schedule": ([{"start_epoch": 0, "end_epoch": 1, "learning_rate": 0.01}], {}),
    "loss_weights": ({"focal": 1.0}, {}),
    "learning_rate": (0.01, {}),
    "freeze": ({"mask_decoder": True}, {}),
    "prompts": ({"box": 1.0, "point": 0.0}, {}),
    "prompt_rounds": (2, {}),
    "clicks": ("teacher", {"use_distill": True, "prompt_rounds": 2, "distill_losses": ANSWERS}),
    "multimask": (False, {}),
    "prompts_per_pass": (4, {}),
    "img_size": (128, {}),
    "batch_size": (2, {}),
    "gradient_accumulation": (2, {}),
    "objects_per_image": (1, {}),
    "augment": ({"brightness": 0.5}, {}),
    "weight_decay": (0.9, {}),
    "encoder_lr_scale": (0.1, {}),
    "layer_decay": (0.5, {}),
    "lr_scheduler": ("linear", {}),
    "lr_scheduler_span": ("run", {"num_epochs": 4, "stage_schedule": TWO_STAGES[:1]}),
    "warmup_steps": (2, {}),
    "gradient_clip": (0.01, {}),
    "ema_decay": (0.9, {}),
    "freeze_batchnorm": (True, {}),
    "cache_embeddings": (False, {"freeze": {"image_encoder": True}}),
    "precision": ("bf16-mixed", {}),
    "start_from": ("best", BEST_IS_THE_FIRST),
    "seed": (1, {}),
    "early_stopping": (1, {"num_epochs": 6, "learning_rate": 1e-9, "freeze_batchnorm": True}),
}


def test_every_key_of_training_is_in_the_table() -> None:
    keys = {
        k for k in RunConfig.model_fields if affects(k) in {"start", "teacher", "training", "stage"}
    }
    # These have tests of their own.
    elsewhere = {"val_images", "train_img_dir_teacher_features", "feature_views", "compile"}
    assert set(CHANGES) == keys - elsewhere


@pytest.mark.parametrize("key", CHANGES)
def test_each_key_changes_the_weights(key: str, tiny: Make, tmp_path: Path) -> None:
    value, context = CHANGES[key]
    if value == "weights.pt":
        donor = tiny(run_name="donor", seed=7)
        train_run(donor)
        export_weights(donor)
        value = str(RunPaths(donor).weights)
    before = tiny(run_name="before", **context)
    after = tiny(run_name="after", **{**context, key: value})
    assert not equal_states(exported(before), exported(after))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "64-true"])
def test_each_precision_is_one_of_its_own(precision: str, tiny: Make) -> None:
    """`auto` is 32-true on a CPU."""
    assert equal_states(
        trained(tiny(run_name="auto")), trained(tiny(run_name="x", precision=precision))
    ) == (precision == "32-true")


@pytest.mark.parametrize("changes", [{}, RANDOM])
def test_nothing_but_the_settings_changes_the_weights(tiny: Make, changes: dict[str, Any]) -> None:
    first = trained(tiny(run_name="first", **changes))
    other = {"num_workers": 1, "save_every_minutes": 0, "val_images": 0}
    second = trained(tiny(run_name="second", **changes, **other))
    assert equal_states(first, second)


def test_workers_read_the_samples(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    loader = stage_module.DataLoader

    def spy(*args: Any, **options: Any) -> Any:
        asked.append(options["num_workers"])
        return loader(*args, **options)

    monkeypatch.setattr(stage_module, "DataLoader", spy)
    train_run(tiny(num_workers=2))
    assert asked == [2]


def test_val_images_sets_what_is_looked_at_after_each_epoch(tiny: Make) -> None:
    for images in (0, 1, 3):
        config = tiny(run_name=f"val{images}", val_images=images)
        train_run(config)
        table = pd.read_csv(RunPaths(config).metrics(normalise(config)[0]))
        assert ("val_box_iou" in table) == (images > 0)


def test_early_stopping_ends_the_stage_and_not_the_run(tiny: Make) -> None:
    schedule = [{"start_epoch": 0, "end_epoch": 6}, {"start_epoch": 6, "end_epoch": 7}]
    still = {"learning_rate": 1e-12, "freeze_batchnorm": True}  # nothing gets better
    config = tiny(num_epochs=7, early_stopping=2, stage_schedule=schedule, **still)
    train_run(config)
    epochs = [len(pd.read_csv(RunPaths(config).metrics(stage))) for stage in normalise(config)]
    assert epochs == [3, 1]


def test_a_stage_settings_do_not_leak_into_the_next(tiny: Make) -> None:
    """Stage 2 trains equally whether or not stage 1 had overrides of no effect on its weights."""
    plain = tiny(
        run_name="plain", num_epochs=2, stage_schedule=[{"start_epoch": 0, "end_epoch": 1}]
    )
    odd = {"start_epoch": 0, "end_epoch": 1, "lambda_coef": 9.0, "name": "finetune"}
    other = tiny(run_name="other", num_epochs=2, stage_schedule=[odd])
    assert equal_states(trained(plain), trained(other))


def test_the_optimiser_carries_over_between_stages(tiny: Make) -> None:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    train_run(config)
    steps = [
        checkpoint.load(RunPaths(config).checkpoint(stage))["optimizer"]["state"]
        for stage in normalise(config)
    ]
    first, last = (max(float(s["step"]) for s in state.values()) for state in steps)
    assert (first, last) == (6, 12)


def test_features_at_a_given_path_are_used(tiny: Make, tmp_path: Path) -> None:
    store = tmp_path / "elsewhere.zarr"
    config = tiny(use_distill=True, train_img_dir_teacher_features=str(store))
    assert store.is_dir()
    train_run(config)


def test_an_unknown_stage_lists_those_that_exist(tiny: Make) -> None:
    with pytest.raises(ConfigError, match="there is no 'x'; there are 00_finetune"):
        train_run(tiny(), "x")


def test_prepare_twice_computes_nothing_twice(tiny: Make) -> None:
    config = tiny(use_distill=True)
    store = RunPaths(config).features
    before = {p: p.stat().st_mtime_ns for p in store.rglob("c/*")}
    prepare(config)
    assert {p: p.stat().st_mtime_ns for p in store.rglob("c/*")} == before


def test_a_part_that_a_later_stage_unfreezes_is_trained(tiny: Make) -> None:
    schedule = [
        {"start_epoch": 0, "end_epoch": 1, "freeze": {"image_encoder": True}},
        {"start_epoch": 1, "end_epoch": 2, "freeze": {"mask_decoder": True}},
        {"start_epoch": 2, "end_epoch": 3},
    ]
    config = tiny(num_epochs=3, stage_schedule=schedule, layer_decay=0.9)
    train_run(config)
    start = start_student(config).state_dict()
    states = [{f"student.{name}": value for name, value in start.items()}]
    states += [weights(config, stage) for stage in range(3)]
    moved = [
        {
            part: not all(torch.equal(a[k], b[k]) for k in states[0] if f"student.{part}." in k)
            for part in ("image_encoder", "mask_decoder")
        }
        for a, b in pairwise(states)
    ]
    assert moved == [
        {"image_encoder": False, "mask_decoder": True},
        {"image_encoder": True, "mask_decoder": False},
        {"image_encoder": True, "mask_decoder": True},
    ]


def test_projections_of_the_distiller_are_trained(tiny: Make) -> None:
    one, two = (
        trained(tiny(run_name=f"{n}", num_epochs=n, use_distill=True, distill_feature_level=1))
        for n in (1, 2)
    )
    projections = [name for name in one if "distiller" in name]
    assert projections
    assert not any(torch.equal(one[name], two[name]) for name in projections)
