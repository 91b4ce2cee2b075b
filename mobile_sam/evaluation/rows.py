"""Rows of the tables: what one mask is worth."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mobile_sam.data.index import Index, IndexedImage, Segment
from mobile_sam.data.masks import Mask, encode
from mobile_sam.metrics import boundary_f, boundary_iou, dice, iou

Row = dict[str, Any]
_KEPT_MASKS = frozenset({"box", "point"})  # prompts whose masks are kept, for pictures


def boxes_filled(index: Index, positions: Sequence[int], name: str) -> Iterator[Row]:
    """Rows of the trivial baseline, which needs no model: the box itself as the mask."""
    for record in (index[position] for position in positions):
        for segment in record.segments:
            mask = np.zeros(record.size, dtype=bool)
            x0, y0, x1, y1 = segment.box
            mask[y0:y1, x0:x1] = True
            mask &= ~record.unknown() if record.ignored else True
            row = row_of(record, segment, record.mask(segment), "box", mask, float("nan"))
            yield {"checkpoint": name, **row}


def row_of(
    record: IndexedImage,
    segment: Segment,
    truth: Mask,
    prompt: str,
    prediction: Mask,
    predicted_iou: float,
) -> Row:
    """What a prediction is worth; truth and prediction are (H, W), image frame."""
    kept = prompt in _KEPT_MASKS
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
        "truth": segment.rle if kept else None,
        "prediction": encode(prediction) if kept else None,
    }
