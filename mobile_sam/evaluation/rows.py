"""Rows of validation tables: metrics of one mask."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mobile_sam.data.index.table import Index, IndexedImage, Segment
from mobile_sam.data.masks import encode_crop
from mobile_sam.evaluation.encoded import Comparison
from mobile_sam.metrics.mask_crop import MaskCrop

Row = dict[str, Any]
_STORED_PROMPTS = frozenset({"box", "point"})  # prompts whose masks are stored, for the gallery


def filled_box_rows(index: Index, positions: Sequence[int], name: str) -> Iterator[Row]:
    """Yield rows of the baseline that needs no model: the filled ground-truth box as the mask."""
    for record in (index[position] for position in positions):
        known = ~record.unknown() if record.ignored else None
        for segment in record.segments:
            x0, y0, x1, y1 = segment.box
            filled = np.ones((y1 - y0, x1 - x0), bool) if known is None else known[y0:y1, x0:x1]
            mask = MaskCrop.tight(filled, x0, y0, record.size)
            compared = Comparison(mask, record.cropped_mask(segment))
            row = measure_mask(record, segment, "box", compared, float("nan"))
            yield {"checkpoint": name, **row}


def measure_mask(
    record: IndexedImage,
    segment: Segment,
    prompt: str,
    mask: Comparison,
    predicted_iou: float,
) -> Row:
    """Return the metrics of a prediction."""
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
        **mask.metrics,
        "predicted_iou": predicted_iou,
        "truth": segment.rle if store_masks else None,
        "prediction": encode_crop(mask.prediction) if store_masks else None,
    }
