"""A stage: moved by every key that its rule depends on, and by nothing else."""

import itertools
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig, affects
from mobile_sam.config.schedule import normalise
from mobile_sam.data.index.table import Index
from mobile_sam.models.safe_load import load_file
from mobile_sam.models.student_teacher import start_student
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from mobile_sam.training import batches, checkpoint
from mobile_sam.training.batches import epoch_batches
from mobile_sam.training.export import export_weights
from mobile_sam.training.progress import NotFiniteError
from mobile_sam.training.run import train_run
from mobile_sam.training.step import TrainingModule
from tests.helpers.equality import equal_states
from tests.helpers.runs import TWO_STAGES, prepare, tiny_settings
from tests.helpers.training_runs import RANDOM, trained, weights

Make = Callable[..., RunConfig]
Unchanged = Callable[[dict[str, Any]], dict[str, torch.Tensor]]


def exported(config: RunConfig) -> dict[str, torch.Tensor]:
    """What the run gives its user."""
    train_run(config)
    export_weights(config)
    return load_file(RunPaths(config).weights)


def test_a_loss_that_is_not_finite_ends_training_with_the_images(tiny: Make) -> None:
    config = tiny(learning_rate=1e30, num_epochs=3, gradient_clip=0)
    message = r"the loss is (nan|inf) in epoch .*images scene_0.*lower learning_rate"
    with pytest.raises(NotFiniteError, match=message):
        train_run(config)
    assert not RunPaths(config).checkpoint(normalise(config)[0]).exists()


def infinite_gradient(monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """Give these calls of the module, counted from 0, an infinite gradient of a finite loss."""
    original, count = TrainingModule.forward, itertools.count()

    def forward(self: TrainingModule, *arguments: Any) -> Any:
        losses = original(self, *arguments)
        if next(count) in calls:
            losses["loss"].register_hook(lambda gradient: gradient * torch.inf)
        return losses

    monkeypatch.setattr(TrainingModule, "forward", forward)


@pytest.mark.parametrize("changes", [{}, {"gradient_clip": 0}, {"gradient_accumulation": 2}])
def test_a_gradient_that_is_not_finite_reaches_no_weights_and_the_next_attempt_goes_on(
    changes: dict[str, Any], tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second of three batches of the second epoch."""
    common = {"num_epochs": 2, "save_every_minutes": 0, "ema_decay": 0.9, **changes}
    expected = trained(tiny(run_name="undisturbed", **common))
    config = tiny(run_name="disturbed", **common)
    with monkeypatch.context() as patched:
        infinite_gradient(patched, 4)
        with pytest.raises(
            NotFiniteError, match=r"a gradient is (nan|inf) in epoch 2, batch 2 "
        ) as e:
            train_run(config)
    (stage,) = normalise(config)
    batch = epoch_batches(10, 4, 1, config.seed, 1).batches[1]
    names = [Index(RunPaths(config).index, "train")[int(i)].image_id for i in batch]
    assert f"(images {', '.join(names)})" in str(e.value)
    state = checkpoint.load(RunPaths(config).state(stage) / "resume.pt")
    assert all(value.isfinite().all() for value in state["learner"].values())
    assert equal_states(trained(config), expected)


def test_in_16_mixed_a_step_that_overflows_is_skipped_until_the_scale_has_collapsed(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {"precision": "16-mixed", "batch_size": 2, "num_epochs": 2}
    infinite_gradient(monkeypatch, 4)
    trained(tiny(run_name="once", **common))
    monkeypatch.undo()
    infinite_gradient(monkeypatch, *range(100))
    with pytest.raises(NotFiniteError, match=r"a gradient is (nan|inf) in epoch 7, batch 1 "):
        train_run(tiny(run_name="always", **common | {"num_epochs": 9, "val_images": 0}))


def test_what_has_no_weight_is_not_trained(tiny: Make) -> None:
    """Nor decayed, nor moved by the momentum of a stage that has trained it."""
    first = {"start_epoch": 0, "end_epoch": 1}
    second = {"start_epoch": 1, "end_epoch": 3, "loss_weights": {"iou": 0}}
    config = tiny(num_epochs=3, stage_schedule=[first, second], weight_decay=0.5, ema_decay=0.5)
    train_run(config)
    start = {f"student.{k}": v for k, v in start_student(config).state_dict().items()}
    before, after = (weights(config, stage) for stage in range(2))
    head = [name for name in before if "iou_prediction_head" in name]
    assert not any(torch.equal(start[name], before[name]) for name in head)
    assert all(torch.equal(before[name], after[name]) for name in head)
    other = "student.mask_decoder.iou_token.weight"  # takes part in the masks
    assert not torch.equal(before[other], after[other])


def test_without_multimask_what_only_the_three_masks_use_is_not_trained(tiny: Make) -> None:
    config = tiny(multimask=False, weight_decay=0.5, num_epochs=2)
    start = {f"student.{k}": v for k, v in start_student(config).state_dict().items()}
    after = trained(config)
    decoder = "student.mask_decoder."
    heads = f"{decoder}output_hypernetworks_mlps."
    for name in (name for name in start if name.startswith(heads)):
        assert torch.equal(start[name], after[name]) != name.startswith(f"{heads}0.")
    last = f"{decoder}iou_prediction_head.layers.2."
    for name in (f"{decoder}mask_tokens.weight", f"{last}weight", f"{last}bias"):
        same = (start[name] == after[name]).reshape(4, -1).all(1)
        assert same.tolist() == [False, True, True, True]


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
    "extra_teachers": (
        [{"checkpoint": "random", "model_type": "tiny_sam", "weight": 0.5}],
        {"use_distill": True},
    ),
    "distill_feature_level": (["neck", 2], {"use_distill": True}),
    "teacher_features": ("online", {"use_distill": True}),
    "feature_dtype": ("int8", {"use_distill": True}),
    "distill_losses": (ANSWERS, {"use_distill": True}),
    "use_distill": (True, {}),
    "lambda_coef": (3.0, {"use_distill": True}),
    "num_epochs": (2, {}),
    "stage_schedule": ([{"start_epoch": 0, "end_epoch": 1, "learning_rate": 0.01}], {}),
    "loss_weights": ({"focal": 1.0}, {}),
    "mask_loss_points": (64, {}),
    "learning_rate": (0.01, {}),
    "freeze": ({"mask_decoder": True}, {}),
    "prompts": ({"box": 1.0, "point": 0.0}, {}),
    "prompt_rounds": (2, {}),
    "click_target": (
        "teacher",
        {"use_distill": True, "prompt_rounds": 2, "distill_losses": ANSWERS},
    ),
    "multimask": (False, {}),
    "decoder_chunk_size": (4, {}),
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
    "warmup_fraction": (0.7, {}),
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
    elsewhere = {"train_img_dir_teacher_features", "feature_views", "compile"}
    elsewhere |= {"val_images", "selection_metric"}
    elsewhere |= {"sync_batchnorm", "labelled_fraction"}
    assert set(CHANGES) == keys - elsewhere


@pytest.fixture(scope="module")
def unchanged(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Unchanged:
    """Gives the weights of a run with these settings, which many keys are compared with."""
    known: dict[str, dict[str, torch.Tensor]] = {}

    def weights_of(changes: dict[str, Any]) -> dict[str, torch.Tensor]:
        name = json.dumps(changes, sort_keys=True)
        if name not in known:
            results = tmp_path_factory.mktemp("unchanged")
            config = parse_config(tiny_settings(scenes, results, **changes), "test")
            prepare(config)
            known[name] = exported(config)
        return known[name]

    return weights_of


@pytest.mark.parametrize("key", CHANGES)
def test_each_key_changes_the_weights(key: str, tiny: Make, unchanged: Unchanged) -> None:
    value, context = CHANGES[key]
    if value == "weights.pt":
        donor = tiny(run_name="donor", seed=7)
        train_run(donor)
        export_weights(donor)
        value = str(RunPaths(donor).weights)
    after = tiny(run_name="after", **{**context, key: value})
    assert not equal_states(unchanged(context), exported(after))


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
    original = batches.DataLoader

    def spy(*args: Any, **options: Any) -> Any:
        asked.append(options["num_workers"])
        return original(*args, **options)

    monkeypatch.setattr(batches, "DataLoader", spy)
    train_run(tiny(num_workers=2, num_epochs=3))
    assert asked == [2]  # once for all epochs of the stage


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
