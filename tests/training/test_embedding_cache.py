"""The embeddings of a frozen encoder: computed once, shared, and without a trace in the result."""

import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.images import RecordError
from mobile_sam.data.index.table import Index
from mobile_sam.extraction.passes import batch_size
from mobile_sam.features.schema import FeatureError
from mobile_sam.models.tiny_vit import TinyViTEncoder
from mobile_sam.paths import RunPaths
from mobile_sam.training import checkpoint
from mobile_sam.training.embedding_cache import stage_embedding_cache
from mobile_sam.training.run import new_fabric, train_run
from mobile_sam.training.setup import new_training_module, training_set
from mobile_sam.training.signals import Interrupted, SignalHandler
from tests.helpers.equality import equal_states
from tests.helpers.runs import directories
from tests.helpers.training_processes import end_in_last_stage, train

Make = Callable[..., RunConfig]
ANSWERS: dict[str, Any] = {"distill_losses": {"mse": 0, "cosine": 0, "mask_bce": 1}}
FROZEN: dict[str, Any] = {"freeze": {"image_encoder": True}, "num_epochs": 3}


def weights(config: RunConfig) -> dict[str, torch.Tensor]:
    return checkpoint.load(RunPaths(config).checkpoint(normalise(config)[-1]))["learner"]


def losses(config: RunConfig) -> pd.DataFrame:
    columns = ["loss", "train_iou", "val_box_iou", "val_point_iou"]
    return pd.read_csv(RunPaths(config).metrics(normalise(config)[-1]))[columns]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that went through the student's encoder, pass by pass."""
    passes: list[int] = []
    original = TinyViTEncoder.forward

    def count(self: TinyViTEncoder, images: torch.Tensor) -> torch.Tensor:
        passes.append(len(images))
        return original(self, images)

    monkeypatch.setattr(TinyViTEncoder, "forward", count)
    return passes


def store_directory(config: RunConfig) -> Path:
    return RunPaths(config).dataset / "embeddings"


def store(config: RunConfig) -> Path:
    (path,) = store_directory(config).glob("*.zarr")
    return path


def test_each_image_is_encoded_once(tiny: Make, encoded: list[int]) -> None:
    train_run(tiny(**FROZEN))
    assert sum(encoded) == 10 + 2  # training, and validation after each epoch
    encoded.clear()
    train_run(tiny(**FROZEN, learning_rate=0.01))
    assert encoded == []  # a run that starts from the same weights
    train_run(tiny(**FROZEN, seed=3))
    assert sum(encoded) == 10 + 2


def test_each_precision_has_a_store_of_its_own(tiny: Make, encoded: list[int]) -> None:
    """So that runs on a GPU and on a CPU do not take it from each other."""
    for precision in ("32-true", "bf16-mixed", "auto"):
        train_run(tiny(**FROZEN, precision=precision))
    assert sum(encoded) == 2 * 12  # on a CPU, `auto` is 32-true
    names = [path.name for path in store_directory(tiny()).glob("*.zarr")]
    assert len(names) == 2


def test_images_without_masks_are_encoded_where_a_stage_distils(
    tiny: Make, unlabelled: Path, encoded: list[int]
) -> None:
    stages = [
        {"start_epoch": 0, "end_epoch": 1},
        {"start_epoch": 1, "end_epoch": 3, "distillation": True, **ANSWERS},
    ]
    common = FROZEN | {"unlabelled_img_dir": str(unlabelled), "val_images": 0}
    config = tiny(**common, stage_schedule=stages)
    fabric = Fabric(accelerator="cpu")
    for stage, images in zip(normalise(config), (10, 15), strict=True):
        module = new_training_module(config, stage, torch.device("cpu"))
        encoder = stage_embedding_cache(config, stage, module.student, fabric)
        assert encoder is not None
        encoded.clear()
        read = encoder.embeddings(lambda: None)
        assert sum(encoded) == images - (0 if stage.index == 0 else 10)
        samples = training_set(config, stage)
        samples.read_embedding = read
        assert len(samples) == images
        assert samples[images - 1].embedding.shape == (32, 4, 4)


def test_only_float16_lies_between_cached_and_computed_embeddings(tiny: Make) -> None:
    cached, computed = tiny(**FROZEN), tiny(run_name="computed", **FROZEN, cache_embeddings=False)
    train_run(cached)
    train_run(computed)
    pd.testing.assert_frame_equal(losses(cached), losses(computed), rtol=0.01, atol=0.01)
    encoder = {k: v for k, v in weights(cached).items() if ".image_encoder." in k}
    assert encoder
    assert equal_states(encoder, {k: weights(computed)[k] for k in encoder})


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": {"flip": True}},
        {"augment": {"brightness": 0.3}},
        {"augment": {"scale": 0.3}},
        {"cache_embeddings": False},
        {"freeze": {"mask_decoder": True}},
        {"use_distill": True, "teacher_features": "online"},
    ],
)
def test_what_changes_from_epoch_to_epoch_is_not_kept(
    changes: dict[str, Any], tiny: Make, encoded: list[int]
) -> None:
    config = tiny(**FROZEN | {"num_epochs": 2, "val_images": 0} | changes)
    encoded.clear()
    train_run(config)
    assert sum(encoded) == 2 * 10
    assert not (RunPaths(config).dataset / "embeddings").exists()


def test_an_encoder_that_an_earlier_stage_trained_has_a_store_that_ends_with_the_stage(
    tiny: Make, encoded: list[int]
) -> None:
    stages = [
        {"start_epoch": 0, "end_epoch": 1, "freeze": {}},
        {"start_epoch": 1, "end_epoch": 4},
    ]
    config = tiny(**FROZEN | {"num_epochs": 4, "stage_schedule": stages, "val_images": 0})
    train_run(config)
    assert sum(encoded) == 10 + 10
    assert not list(RunPaths(config).project.rglob("embeddings.zarr"))
    assert not (RunPaths(config).dataset / "embeddings").exists()


@pytest.mark.parametrize(
    ("precision", "dtype", "in_16_bits"),
    [("64-true", torch.float64, False), ("bf16-mixed", torch.float32, True)],
)
def test_the_batch_size_is_probed_in_the_precision_of_the_pass(
    precision: str, dtype: torch.dtype, in_16_bits: bool, tiny: Make
) -> None:
    config = tiny(precision=precision, **FROZEN)
    stage, fabric = normalise(config)[0], new_fabric(config, "cpu")
    student = new_training_module(config, stage, fabric.device).student.to(dtype)
    frozen = stage_embedding_cache(config, stage, student, fabric)
    assert frozen is not None
    seen = []
    frozen.encoder.to("meta").register_forward_pre_hook(
        lambda _, images: seen.append((images[0].dtype, torch.is_autocast_enabled("cpu")))
    )
    encode = partial(frozen._encode, lambda: None)
    # Stands for a GPU: no numbers, but another type than the CPU.
    assert batch_size(frozen.encoder, encode, config.img_size, torch.device("meta")) == 16
    assert seen == [(dtype, in_16_bits)]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_images_themselves_are_no_longer_read(
    workers: int, tiny: Make, scenes: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    places = {
        f"{s}_{k}_dir": str(data / s / n)
        for s in ("train", "val")
        for k, n in (("img", "image"), ("mask", "mask"))
    }
    config = tiny(**FROZEN, **places)
    train_run(config)
    for path in data.rglob("image/*.png"):
        path.unlink()
    before = weights(config)
    shutil.rmtree(RunPaths(config).stage(normalise(config)[0]))
    train_run(config.model_copy(update={"num_workers": workers}))
    assert equal_states(weights(config), before)


def test_an_image_that_changed_since_it_was_indexed_is_refused(
    tiny: Make, scenes: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    config = tiny(**FROZEN, **directories(data))
    images = sorted((data / "train" / "image").iterdir())
    shutil.copy(images[3], images[4])
    with pytest.raises(RecordError, match=rf"{images[4].name}: the image has changed since it was"):
        train_run(config)


def test_damage_is_named_with_what_to_do(tiny: Make) -> None:
    config = tiny(**FROZEN)
    train_run(config)
    shard = store(config) / "neck" / "c" / "0/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(FeatureError, match=r"scene_.* are damaged .*; delete .*embeddings"):
        train_run(tiny(**FROZEN, learning_rate=0.01))
    shutil.rmtree(store(config))
    train_run(tiny(**FROZEN, learning_rate=0.01))


def test_asked_to_end_while_embeddings_are_computed_it_goes_on_from_there(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    monkeypatch.setattr("mobile_sam.features.arrays.IMAGES_PER_SHARD", 4)
    undisturbed = tiny(run_name="undisturbed", **FROZEN)
    train_run(undisturbed)
    shutil.rmtree(store(undisturbed))
    config = tiny(run_name="ended", **FROZEN)
    original, calls = SignalHandler.end_if_requested, []

    def fourth_batch(self: SignalHandler) -> None:
        calls.append(self)
        self.requested = len(calls) == 4
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(SignalHandler, "end_if_requested", fourth_batch)
        with pytest.raises(Interrupted):
            train_run(config)
    encoded.clear()
    train_run(config)
    assert sum(encoded) == 2  # of validation; those of training are kept
    assert equal_states(weights(config), weights(undisturbed))


def test_killed_with_a_frozen_encoder_ends_in_the_same_weights(tiny: Make) -> None:
    common = FROZEN | {"num_epochs": 8, "save_every_minutes": 0}
    undisturbed, killed = tiny(run_name="undisturbed", **common), tiny(run_name="killed", **common)
    train_run(undisturbed)
    shutil.rmtree(store(undisturbed))
    end_in_last_stage(killed, signal.SIGKILL, epoch=3)
    train(killed)
    assert equal_states(weights(killed), weights(undisturbed))


def test_a_full_disk_is_named_with_what_to_do(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(**FROZEN)
    assert len(Index(RunPaths(config).index, "train")) == 10
    monkeypatch.setattr(
        "mobile_sam.extraction.plan.shutil.disk_usage",
        lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0),  # type: ignore[attr-defined]
    )
    message = r"the features of 12 images need 12\.0 KiB .*choose cache_embeddings false"
    with pytest.raises(FeatureError, match=message):
        train_run(config)
