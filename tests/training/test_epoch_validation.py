"""Validation after an epoch: its figures, its memory, its ranks, its end, and what it selects."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.config.sections import SelectionMetric
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index
from mobile_sam.data.sampling.dataset import Sample, ValidationSet, collate
from mobile_sam.data.sampling.prompts import VALIDATION_PROMPTS
from mobile_sam.evaluation.options import EvaluationOptions
from mobile_sam.evaluation.runner import measure_images
from mobile_sam.metrics import iou
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam
from mobile_sam.models.student_teacher import start_student
from mobile_sam.paths import RunPaths
from mobile_sam.training import epoch_validation
from mobile_sam.training import stage as stage_module
from mobile_sam.training.epoch_validation import image_iou, selection_iou, validation_iou
from mobile_sam.training.export import load_student
from mobile_sam.training.memory_meter import MemoryMeter
from mobile_sam.training.run import train_run
from mobile_sam.training.setup import state_key
from mobile_sam.training.signals import Interrupted
from mobile_sam.training.step import TrainingModule, upscale_logits
from mobile_sam.training.teacher import FeatureProjections
from tests.helpers.equality import equal
from tests.helpers.training_processes import log_of, start, train, train_ranks
from tests.helpers.training_runs import results
from tests.helpers.training_steps import GOAL

Make = Callable[..., RunConfig]


def metrics(config: RunConfig) -> pd.DataFrame:
    path = RunPaths(config).metrics(normalise(config)[-1])
    table = pd.read_csv(path)
    return table[["best", *(name for name in table if name.startswith("val_"))]]


@pytest.fixture(scope="module")
def index(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    target = tmp_path_factory.mktemp("index") / "index.parquet"
    places = {s: (scenes / s / "image", scenes / s / "mask") for s in ("train", "val")}
    index_dataset(places, target)
    return Index(target, "val")


@pytest.fixture(scope="module")
def student() -> Sam:
    torch.manual_seed(0)
    return build_sam_model("tiny_sam", 64).eval()


def found(student: Sam, samples: ValidationSet, *options: Any) -> dict[str, float]:
    return validation_iou(student, samples, Fabric(accelerator="cpu"), *options)


@torch.no_grad()
def test_figures_are_those_of_a_plain_loop(index: Index, student: Sam) -> None:
    """One prompt after the other; the mean over images of the means over their segments."""
    samples = ValidationSet(index, 64, 3, 99, seed=5)
    expected: dict[str, list[float]] = {kind: [] for kind in VALIDATION_PROMPTS}
    for number in range(len(samples)):
        image = samples[number]
        embedding = student.image_encoder(collate([image]).normalised())
        for k, kind in enumerate(expected):
            of_segments = []
            for p, truth in enumerate(image.masks):
                row = k * len(image.masks) + p
                prompt = image.points[None, row], image.labels[None, row]
                logits = upscale_logits(student.decode(embedding, *prompt)[0], 64)[0, 0]
                mask = (logits > 0) & image.valid
                of_segments.append(iou(mask.numpy(), (truth & image.valid).numpy()))
            expected[kind].append(float(np.mean(of_segments)))
    means = {kind: float(np.mean(values)) for kind, values in expected.items()}
    assert all(0 < mean < 1 for mean in means.values())
    assert found(student, samples, 1) == pytest.approx(means, abs=1e-7)
    assert found(student, samples, 2) == pytest.approx(means, abs=1e-3)
    assert found(student, samples, 99) == pytest.approx(means, abs=1e-3)


def test_clicks_are_those_of_the_protocol(index: Index, student: Sam) -> None:
    """In images of the model frame's size, as `validate` measures 3 corrective clicks."""
    samples = ValidationSet(index, 64, 99, 99, seed=0)
    after = found(student, samples, 99, True)["clicks"]
    how = EvaluationOptions(0.0, (0.0,), ("clicks",))
    rows = pd.DataFrame(measure_images(student, index, range(len(index)), how, "x"))
    three = rows[rows["prompt"] == "clicks_3"].groupby("image_id")["iou"].mean()
    assert after == pytest.approx(three.mean(), abs=1e-6)


def sample(images: int, objects: int, kinds: int) -> Sample:
    """Blank images with so many objects, each with prompts of `kinds` kinds."""
    points = torch.zeros(images, kinds * objects, 2, 2)
    masks = torch.zeros(images, objects, 64, 64, dtype=torch.bool)
    return Sample(
        position=torch.zeros(images),
        image=torch.zeros(images, 3, 64, 64, dtype=torch.uint8),
        size=torch.full((images, 2), 64),
        valid=torch.ones(images, 64, 64, dtype=torch.bool),
        masks=masks,
        points=points,
        labels=torch.ones(images, kinds * objects, 2, dtype=torch.int64),
        teacher={},
        labelled=torch.ones(images, dtype=torch.bool),
    )


def training_peak(objects: int) -> int:
    """Bytes at most of a step of one image."""
    module = TrainingModule(
        build_sam_model("tiny_sam", 64), FeatureProjections(32, {}, seed=0), GOAL
    ).train()
    with MemoryMeter() as meter:
        module(sample(1, objects, 1))["loss"].sum().backward()
    return meter.peak


def validation_peak(student: Sam, objects: int, decoder_chunk_size: int = 32) -> int:
    """Bytes at most beside the sample itself, which need not be on the device."""
    image = sample(1, objects, 2)
    given = sum(t.untyped_storage().nbytes() for t in (image.masks, image.points, image.labels))
    with MemoryMeter() as meter, torch.no_grad():
        image_iou(student, image, torch.device("cpu"), decoder_chunk_size)
    return meter.peak - given


@pytest.mark.parametrize("objects", [1, 4, 32, 200])
def test_validation_takes_less_memory_than_a_step_of_one_image(student: Sam, objects: int) -> None:
    assert validation_peak(student, objects) < training_peak(objects) / 2


def test_the_memory_of_validation_does_not_grow_with_the_objects(student: Sam) -> None:
    peak = validation_peak(student, 32)
    few_bytes = 8 * 2 * 200  # of each prompt its IoU
    assert validation_peak(student, 200) <= peak + few_bytes
    assert validation_peak(student, 200, decoder_chunk_size=4) < peak / 2


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_two_ranks_find_what_one_finds_bit_for_bit(decay: float, tiny: Make) -> None:
    """With 3 images, and BatchNorm statistics of each rank's own images."""
    config = tiny(val_images=3, devices=2, ema_decay=decay, selection_metric="clicks")
    train_ranks(config)
    student = start_student(config)
    load_student(student, config, normalise(config)[0], "last")
    samples = ValidationSet(Index(RunPaths(config).index, "val"), 64, 2, 3, config.seed)
    alone = found(student.eval(), samples, config.decoder_chunk_size, True)
    row = metrics(config).iloc[-1]
    assert {f"val_{kind}_iou": value for kind, value in alone.items()} == row.drop("best").to_dict()


def test_two_ranks_share_the_embeddings_of_a_frozen_encoder(tiny: Make) -> None:
    still = {"freeze": {"image_encoder": True}, "learning_rate": 1e-300, "val_images": 3}
    one, two, read = (
        tiny(run_name=name, devices=devices, cache_embeddings=cached, **still)
        for name, devices, cached in (("one", 1, True), ("two", 2, True), ("read", 1, False))
    )
    train_run(one)
    train_ranks(two)
    train_run(read)
    assert metrics(one).equals(metrics(two))
    close = metrics(read).to_numpy()  # stored embeddings are float16
    assert metrics(one).to_numpy() == pytest.approx(close, abs=0.02)


def _asked_to_end_in_the_second_validation() -> None:
    """By a signal while the first image of it is looked at."""
    original, calls = epoch_validation.image_iou, [0]

    def look(*arguments: Any, **options: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        assert calls[0] < 5, "it was asked to end"
        return original(*arguments, **options)

    epoch_validation.image_iou = look


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9, "gradient_accumulation": 2}])
def test_asked_to_end_in_validation_it_ends_at_once_and_goes_on_from_there(
    changes: dict[str, Any], tiny: Make
) -> None:
    settings = {"num_epochs": 3, "val_images": 3, **changes}
    undisturbed, config = (tiny(run_name=name, **settings) for name in ("undisturbed", "ended"))
    train_run(undisturbed)
    process = start(config, before=_asked_to_end_in_the_second_validation)
    process.join()
    assert process.exitcode == Interrupted().code, log_of(config)
    log = train(config)
    assert "resuming at epoch 1, batch 3" in log
    assert equal(results(config), results(undisturbed))


@pytest.mark.parametrize(
    ("metric", "expected"), [("box", 0.9), ("point", 0.1), ("mean", 0.5), ("clicks", 0.3)]
)
def test_epochs_are_compared_by_the_metric(metric: SelectionMetric, expected: float) -> None:
    row = {"val_box_iou": 0.9, "val_point_iou": 0.1, "val_clicks_iou": 0.3}
    assert selection_iou(row, metric) == expected


def test_the_best_epoch_is_that_of_the_metric(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    by_clicks, wanted = [0.2, 0.9, 0.3], []

    def next_epoch(*arguments: Any) -> dict[str, float]:
        wanted.append(arguments[4])
        return {"box": 0.5, "point": 0.5, "clicks": by_clicks[len(wanted) - 1]}

    monkeypatch.setattr(stage_module, "validation_iou", next_epoch)
    config = tiny(num_epochs=3, selection_metric="clicks", early_stopping=1)
    train_run(config)
    assert metrics(config)["best"].tolist() == [0, 1, 0]
    assert wanted == [True] * 3


def test_another_metric_is_another_training(tiny: Make) -> None:
    """A resume state of the one is not gone on from with the other."""
    keys = []
    for metric in ("mean", "box"):
        config = tiny(selection_metric=metric)
        (stage,) = normalise(config)
        keys.append(state_key(config, stage, RunPaths(config).index, None))
    assert keys[0] != keys[1]


def test_clicks_are_a_column_where_they_select(tiny: Make) -> None:
    usual, clicks = tiny(run_name="usual"), tiny(run_name="clicks", selection_metric="clicks")
    for config in (usual, clicks):
        train_run(config)
    columns = ["best", "val_box_iou", "val_point_iou"]
    assert list(metrics(usual)) == columns
    assert list(metrics(clicks)) == [*columns, "val_clicks_iou"]
    shared = metrics(clicks)[columns].to_numpy()
    assert metrics(usual).to_numpy() == pytest.approx(shared, abs=1e-3)
