"""Tables of validation with made-up predictions, without any model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mobile_sam.data.index.table import Index, IndexedImage
from mobile_sam.data.masks import Mask, bounding_box, encode
from mobile_sam.evaluation.tables import write_table
from mobile_sam.metrics import boundary_f, boundary_iou, dice, iou

THRESHOLDS = (-2.0, -1.0, 0.0, 1.0, 2.0)
PLAIN = ("box", "point")
EVERY = (
    *("box", "point", "center", "box_best_of_3", "point_best_of_3", "box_chosen_of_3"),
    *("point_chosen_of_3", "clicks_3", "clicks_5", "noc", "automatic"),
)


def write_made_up(
    index: Index, target: Path, name: str, error: float, prompts: Sequence[str] = PLAIN
) -> None:
    """A table in which outlines are off by about `error` of a segment's size, by chance.

    Later prompts are a little worse than the first.
    """
    rng = np.random.default_rng([len(name), *name.encode()])
    rows: list[dict[str, Any]] = []
    for prompt in ("box",) if name == "box_filled" else prompts:
        worse = error * (1 + 0.1 * list(prompts).index(prompt))
        for position in range(len(index)):
            rows += _rows(index[position], name, prompt, worse, rng)
    write_table(target, rows, {"thresholds": THRESHOLDS})


def _rows(
    record: IndexedImage, name: str, prompt: str, error: float, rng: np.random.Generator
) -> list[dict[str, Any]]:
    # Some images are harder than others, for all alike.
    error = error * (1 + len(record.segments) % 3)
    rows = []
    for number, segment in enumerate(record.segments):
        truth = record.mask(segment)
        predicted = filled(truth) if name == "box_filled" else disturbed(truth, error, rng)
        row = measured(predicted, truth)
        sweep = [row["iou"] - 0.03 * abs(t - 0.5) for t in THRESHOLDS]
        rows.append(
            {
                "checkpoint": name,
                "prompt": prompt,
                "image_id": record.image_id,
                "image_path": str(record.path),
                "segment_id": segment.segment_id,
                "class": ("cell", "part")[number % 2],
                "height": record.size[0],
                "width": record.size[1],
                "area": segment.area,
                **row,
                "predicted_iou": float("nan")
                if name == "box_filled"
                else float(np.clip(row["iou"] + rng.normal(0.02, 0.05), 0, 1)),
                "noc_80": _clicks(row["iou"], 0.8) if prompt == "noc" else None,
                "noc_90": _clicks(row["iou"], 0.9) if prompt == "noc" else None,
                "recall": float(np.mean(row["iou"] >= np.arange(0.5, 1, 0.05)))
                if prompt == "automatic"
                else None,
                "sweep": sweep if prompt in PLAIN and name != "box_filled" else None,
                "truth": segment.rle,
                "prediction": None if prompt == "noc" else encode(predicted),
            }
        )
    return rows


def _clicks(reached: float, limit: float) -> int:
    return 20 if reached < limit else max(1, round(12 * (1 - reached)))


def measured(prediction: Mask, truth: Mask) -> dict[str, float]:
    return {
        "iou": iou(prediction, truth),
        "dice": dice(prediction, truth),
        "boundary_iou": boundary_iou(prediction, truth),
        "boundary_f": boundary_f(prediction, truth),
    }


def filled(truth: Mask) -> Mask:
    x0, y0, x1, y1 = bounding_box(truth)
    mask = np.zeros_like(truth)
    mask[y0:y1, x0:x1] = True
    return mask


def disturbed(truth: Mask, error: float, rng: np.random.Generator) -> Mask:
    """The mask with a smooth random change along its outline."""
    signed = cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, 5)
    signed -= cv2.distanceTransform((~truth).astype(np.uint8), cv2.DIST_L2, 5)
    side = max(truth.shape)
    noise = cv2.GaussianBlur(rng.normal(size=truth.shape), (0, 0), side / 12)
    noise *= 1 / noise.std()
    return signed + error * np.sqrt(truth.sum()) * noise > 0
