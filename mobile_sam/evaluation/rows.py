"""Rows of validation tables: metrics of one mask."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mobile_sam.data.index.table import Index, IndexedImage, Segment
from mobile_sam.data.masks import Mask, encode
from mobile_sam.metrics import boundary_f, boundary_iou, dice, iou

Row = dict[str, Any]
_STORED_PROMPTS = frozenset({"box", "point"})  # prompts whose masks are stored, for the gallery


def filled_box_rows(index: Index, positions: Sequence[int], name: str) -> Iterator[Row]:
    """Yield rows of the baseline that needs no model: the filled ground-truth box as the mask."""
    for record in (index[position] for position in positions):
        for segment in record.segments:
            mask = np.zeros(record.size, dtype=bool)
            x0, y0, x1, y1 = segment.box
            mask[y0:y1, x0:x1] = True
            mask &= ~record.unknown() if record.ignored else True
            row = measure_mask(record, segment, record.mask(segment), "box", mask, float("nan"))
            yield {"checkpoint": name, **row}


def measure_mask(
    record: IndexedImage,
    segment: Segment,
    truth: Mask,
    prompt: str,
    prediction: Mask,
    predicted_iou: float,
) -> Row:
    """Return the metrics of a prediction; truth and prediction are (H, W), image frame."""
    store_masks = prompt in _STORED_PROMPTS
    return {
        "prompt": prompt,
        "image_id": record.image_id,
        "image_path": str(record.path),
        "segment_id": segment.segment_id,
        "class": segment.class_name,
        "height": record.size[0],
        "width": record.size[1],
        "area": segment.area,
        "iou": iou(prediction, truth),
        "dice": dice(prediction, truth),
        "boundary_iou": boundary_iou(prediction, truth),
        "boundary_f": boundary_f(prediction, truth),
        "predicted_iou": predicted_iou,
        "truth": segment.rle if store_masks else None,
        "prediction": encode(prediction) if store_masks else None,
    }
