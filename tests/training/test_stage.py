"""A stage: resumed bit for bit, cut into processes without a trace, and moved by every key."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mobile_sam.config import ConfigError, RunConfig, affects
from mobile_sam.layout import RunPaths
from mobile_sam.schedule import normalise
from mobile_sam.training import checkpoint
from mobile_sam.training import stage as stage_module
from mobile_sam.training.export import export_weights
from mobile_sam.training.lock import exclusive
from mobile_sam.training.progress import NotFiniteError
from mobile_sam.training.run import train_run
from tests.conftest import TWO_STAGES, equal_states, prepare
from tests.training.processes import end_in_last_stage, train

Make = Callable[..., RunConfig]
# All that is drawn at random, at once.
RANDOM = {
    "prompts": {"box": 1, "point": 1, "interior_point": 1, "points": 1, "mask": 1},
    "prompt_rounds": 2,
    "augment": {"flip": True, "scale": 0.4, "brightness": 0.2, "contrast": 0.2, "hue": 0.1},
}


def weights(config: RunConfig, stage: int = -1) -> dict[str, torch.Tensor]:
    return checkpoint.load(RunPaths(config).checkpoint(normalise(config)[stage]))["learner"]


def trained(config: RunConfig) -> dict[str, torch.Tensor]:
    train_run(config)
    return weights(config)


def test_stages_in_processes_of_their_own_equal_one_process(tiny: Make) -> None:
    """`train` for each stage, against one `train` without `--stage`."""
    whole = tiny(run_name="whole", num_epochs=4, stage_schedule=TWO_STAGES)
    split = tiny(run_name="split", num_epochs=4, stage_schedule=TWO_STAGES)
    train(whole)
    for stage in normalise(split):
        train(split, "--stage", stage.directory)
    for stage in range(2):
        assert equal_states(weights(whole, stage), weights(split, stage))


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (signal.SIGKILL, {}),
        (signal.SIGKILL, {"gradient_accumulation": 2}),
        (signal.SIGKILL, RANDOM),
        (signal.SIGTERM, {"gradient_accumulation": 2}),
        (signal.SIGINT, {}),
        (signal.SIGUSR1, {}),
    ],
    ids=["kill", "kill-accumulating", "kill-all-random", "term", "ctrl-c", "time-limit"],
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
    end_in_last_stage(killed, number, epoch=3)
    assert "resuming at epoch" in train(killed)
    assert equal_states(weights(killed), weights(undisturbed))
    columns = ["epoch", "step", "loss", "train_iou", "val_box_iou"]
    stage = normalise(killed)[1]
    tables = [pd.read_csv(RunPaths(c).metrics(stage))[columns] for c in (killed, undisturbed)]
    pd.testing.assert_frame_equal(*tables)
    assert not (RunPaths(killed).state(stage) / "resume.pt").exists()


def test_a_loss_that_is_not_finite_ends_training_with_the_images(tiny: Make) -> None:
    config = tiny(learning_rate=1e30, num_epochs=3, gradient_clip=0)
    message = r"the loss is (nan|inf) in epoch .*images scene_0.*lower learning_rate"
    with pytest.raises(NotFiniteError, match=message):
        train_run(config)
    assert not RunPaths(config).checkpoint(normalise(config)[0]).exists()


def test_state_of_other_settings_is_not_resumed(
    tiny: Make, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(save_every_minutes=0, num_epochs=2)
    fresh = trained(tiny(run_name="fresh", num_epochs=2, learning_rate=0.01))
    train_run(config)
    (stage,) = normalise(config)
    paths = RunPaths(config)
    content = checkpoint.load(paths.checkpoint(stage))
    progress = {"epoch": 1, "batch": 0, "step": 3, "rows": []}
    checkpoint.save(
        paths.state(stage) / "resume.pt", content | {"key": "other", "progress": progress}
    )
    changed = config.model_copy(update={"learning_rate": 0.01})
    paths.checkpoint(stage).unlink()
    with caplog.at_level("INFO"):
        assert equal_states(trained(changed), fresh)
    assert "belongs to other settings or inputs; starting anew" in caplog.text


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
    "lr_scheduler": ("linear", {}),
    "lr_scheduler_span": ("run", {"num_epochs": 4, "stage_schedule": TWO_STAGES[:1]}),
    "warmup_steps": (2, {}),
    "gradient_clip": (0.01, {}),
    "freeze_batchnorm": (True, {}),
    "cache_embeddings": (False, {"freeze": {"image_encoder": True}}),
    "precision": ("bf16-mixed", {}),
    "seed": (1, {}),
    "early_stopping": (1, {"num_epochs": 6, "learning_rate": 1e-9, "freeze_batchnorm": True}),
}


def test_every_key_of_training_is_in_the_table() -> None:
    keys = {
        k for k in RunConfig.model_fields if affects(k) in {"start", "teacher", "training", "stage"}
    }
    # These have tests of their own.
    elsewhere = {"devices", "val_images", "train_img_dir_teacher_features", "feature_views"}
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
    assert not equal_states(trained(before), trained(after))


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


@pytest.mark.parametrize("changes", [{}, RANDOM])
def test_two_processes_average_their_gradients(tiny: Make, changes: dict[str, Any]) -> None:
    """DDP over two CPU processes sees the batch that one process of twice the size sees."""
    common = {"num_epochs": 2, "freeze_batchnorm": True, "val_images": 0, **changes}
    one = tiny(run_name="one", batch_size=4, **common)
    two = tiny(run_name="two", batch_size=2, devices=2, **common)
    for config in (one, two):
        train(config)
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    close = [torch.allclose(first[k].float(), second[k].float(), atol=2e-3) for k in first]
    assert sum(close) / len(close) > 0.98


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


def test_a_second_trainer_of_the_stage_is_refused(tiny: Make) -> None:
    config = tiny()
    (stage,) = normalise(config)
    state = RunPaths(config).state(stage)
    state.mkdir(parents=True)
    with exclusive(state / "lock"), pytest.raises(ConfigError, match="another process is training"):
        train_run(config, stage.directory)


def test_a_missing_checkpoint_of_the_stage_before_is_named(tiny: Make) -> None:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    with pytest.raises(
        ConfigError, match=r"00_distill/checkpoint\.pt: missing; train stage 00_distill"
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


def test_an_unknown_stage_lists_those_that_exist(tiny: Make) -> None:
    with pytest.raises(ConfigError, match="there is no 'x'; there are 00_finetune"):
        train_run(tiny(), "x")


def test_prepare_twice_computes_nothing_twice(tiny: Make) -> None:
    config = tiny(use_distill=True)
    store = RunPaths(config).features
    before = {p: p.stat().st_mtime_ns for p in store.rglob("c/*")}
    prepare(config)
    assert {p: p.stat().st_mtime_ns for p in store.rglob("c/*")} == before
