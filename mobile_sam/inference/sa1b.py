"""Masks of an image as a JSON file, as SA-1B has one beside each image.

Kirillov et al., arXiv:2304.02643, section 5; the keys are those of the published files.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobile_sam.data.masks import Size, encode, encode_runs
from mobile_sam.files import write_json


def write_sa1b(
    target: Path,
    records: Sequence[Mapping[str, Any]],
    file_name: str,
    image_size: Size,
    image_id: int = 0,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write the records of `SamAutomaticMaskGenerator.generate`, of any `output_mode`.

    target: `<image's name>.json`, beside the image or in a directory of masks: a data set that
    `data.records` reads. file_name, image_size (H, W) in pixels, image_id: of the image.
    more: what else to say of the image; readers of SA-1B pass over it.
    Raises ValueError for a mask that is empty or not of that size.
    """
    height, width = image_size
    image: dict[str, Any] = {
        "image_id": image_id,
        "file_name": file_name,
        "height": height,
        "width": width,
    }
    image |= more or {}
    annotations = [_annotation(*item, image_size) for item in enumerate(records)]
    write_json(target, {"image": image, "annotations": annotations})


def _annotation(number: int, record: Mapping[str, Any], size: Size) -> dict[str, Any]:
    if record["area"] == 0:
        raise ValueError(f"record {number}: the mask is empty; leave it out")
    score = record["stability_score"]
    return {
        **record,
        "id": number,
        "segmentation": {"size": list(size), "counts": _text(number, record["segmentation"], size)},
        "stability_score": score if math.isfinite(score) else None,
    }


def _text(number: int, segmentation: Any, size: Size) -> str:
    """COCO's compressed run-length code."""
    is_code = isinstance(segmentation, Mapping)
    found = tuple(segmentation["size"] if is_code else segmentation.shape)
    if found != size:
        raise ValueError(f"record {number}: the mask is of (H, W) {found}, its image of {size}")
    if not is_code:
        return encode(np.asarray(segmentation, dtype=bool)).decode("ascii")
    counts = segmentation["counts"]
    return counts if isinstance(counts, str) else encode_runs(counts, size).decode("ascii")
