"""Validation: every segment of the validation images by fixed prompts, at original resolution."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.data.images import read_image
from mobile_sam.data.index import Index, IndexedImage
from mobile_sam.data.masks import Mask, encode
from mobile_sam.data.prompts import VALIDATION_PROMPTS, Prompt
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.files import unfinished_path
from mobile_sam.frames import points_to_model_frame, upscale_logits
from mobile_sam.layout import RunPaths, validated
from mobile_sam.metrics import dice, iou
from mobile_sam.models.roles import load_teacher, start_student
from mobile_sam.models.sam import Sam
from mobile_sam.teachers import named_teachers
from mobile_sam.training.export import load_student

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("checkpoint", pa.string()),
        ("prompt", pa.string()),
        ("image_id", pa.string()),
        ("image_path", pa.string()),
        ("segment_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("area", pa.int64()),
        ("iou", pa.float64()),
        ("dice", pa.float64()),
        ("predicted_iou", pa.float64()),
        ("truth", pa.binary()),  # run-length codes
        ("prediction", pa.binary()),
    ]
)
_PROMPTS_AT_ONCE = 64
_LOG_SECONDS = 5.0
BOX_FILLED = "box_filled"


def validate(config: RunConfig, what: str) -> None:
    """Write one row for each segment and prompt of the validation images.

    what: `box_filled` (the box itself as a mask), `start`, a stage's `NN_name`, `teacher`, or
        `teacher_2` and so on for the others.
    Masks are `mask_logits > mask_threshold`. Two runs write equal tables.
    """
    if what not in validated(config):
        raise ConfigError(f"--what: there is no {what!r}; there are {', '.join(validated(config))}")
    paths = RunPaths(config)
    index = Index(paths.index, "val")
    model = None if what == BOX_FILLED else _model(config, what)
    rows: list[dict[str, Any]] = []
    began = logged = time.monotonic()
    for position in range(len(index)):
        record = index[position]
        found = _box_filled(record) if model is None else _predicted(model, record, config)
        rows += [{"checkpoint": what, **row} for row in found]
        if time.monotonic() - logged > _LOG_SECONDS:
            logged = time.monotonic()
            rate = (position + 1) / (logged - began)
            left = (len(index) - position - 1) / rate
            log.info(
                "%s: image %d/%d  %.1f img/s  %.0f s left",
                what,
                position + 1,
                len(index),
                rate,
                left,
            )
    target = paths.validation(what)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(target)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), unfinished, compression="zstd")
    unfinished.replace(target)
    for prompt in dict.fromkeys(row["prompt"] for row in rows):
        mean = np.mean([row["iou"] for row in rows if row["prompt"] == prompt])
        log.info("%s: mIoU by %s %.3f", what, prompt, mean)


def _model(config: RunConfig, what: str) -> Sam:
    teachers = named_teachers(config)
    if what in teachers:
        model = load_teacher(teachers[what])
    else:
        model = start_student(config)
        if what != "start":
            load_student(model, config, what)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval().to(device)


def _box_filled(record: IndexedImage) -> Iterator[dict[str, Any]]:
    for segment in record.segments:
        prediction = np.zeros(record.size, dtype=bool)
        x0, y0, x1, y1 = segment.box
        prediction[y0:y1, x0:x1] = True
        yield _row(record, segment, "box", prediction, float("nan"))


@torch.no_grad()
def _predicted(model: Sam, record: IndexedImage, config: RunConfig) -> Iterator[dict[str, Any]]:
    device = next(model.parameters()).device
    frame = image_to_model_frame(read_image(record.path), config.img_size)
    embedding = model.image_encoder(frame[None].to(device))
    for kind, prompt_of in VALIDATION_PROMPTS.items():
        for start in range(0, len(record.segments), _PROMPTS_AT_ONCE):
            segments = record.segments[start : start + _PROMPTS_AT_ONCE]
            prompts = [prompt_of(record.mask(segment)) for segment in segments]
            logits, predicted_iou = _decode(model, embedding, prompts, record, config.img_size)
            masks = (logits > config.mask_threshold).cpu().numpy()
            for segment, mask, guess in zip(segments, masks, predicted_iou.tolist(), strict=True):
                yield _row(record, segment, kind, mask, guess)


def _decode(
    model: Sam, embedding: Tensor, prompts: list[Prompt], record: IndexedImage, img_size: int
) -> tuple[Tensor, Tensor]:
    """mask_logits (P, H, W) in the image frame and predicted_iou (P,)."""
    points = torch.from_numpy(np.stack([prompt.points for prompt in prompts]))
    points = points_to_model_frame(points, record.size, img_size)
    labels = torch.from_numpy(np.stack([prompt.labels for prompt in prompts]))
    device = embedding.device
    low_res_logits, predicted_iou = model.decode(embedding, points.to(device), labels.to(device))
    return upscale_logits(low_res_logits, img_size, record.size)[:, 0], predicted_iou[:, 0]


def _row(
    record: IndexedImage, segment: Any, prompt: str, prediction: Mask, predicted_iou: float
) -> dict[str, Any]:
    truth = record.mask(segment)
    return {
        "prompt": prompt,
        "image_id": record.image_id,
        "image_path": str(record.path),
        "segment_id": segment.segment_id,
        "height": record.size[0],
        "width": record.size[1],
        "area": segment.area,
        "iou": iou(prediction, truth),
        "dice": dice(prediction, truth),
        "predicted_iou": predicted_iou,
        "truth": segment.rle,
        "prediction": encode(prediction),
    }
