"""JSON files of masks in the format of SA-1B, one for each image.

Kirillov et al., arXiv:2304.02643, section 5; the keys are those of the published files.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobile_sam.data.masks import Size, encode, encode_runs
from mobile_sam.system.atomic_files import write_json


def write_sa1b(
    target: Path,
    records: Sequence[Mapping[str, Any]],
    file_name: str,
    image_size: Size,
    image_id: int = 0,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write the records of `SamAutomaticMaskGenerator.generate`, of any `output_mode`.

    target: `<image's name>.json`, beside the image or in a directory of masks; `data.records` reads
    such a data set. file_name, image_size (H, W) in pixels, image_id: of the image.
    more: further keys of the image, which readers of SA-1B ignore.
    Raises ValueError for a mask that is empty or of another size.
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
        "segmentation": {
            "size": list(size),
            "counts": _compressed_counts(number, record["segmentation"], size),
        },
        "stability_score": score if math.isfinite(score) else None,
    }


def _compressed_counts(number: int, segmentation: Any, size: Size) -> str:
    """Return COCO's compressed run-length code of a segmentation in any output mode."""
    is_rle = isinstance(segmentation, Mapping)
    mask_size = tuple(segmentation["size"] if is_rle else segmentation.shape)
    if mask_size != size:
        raise ValueError(f"record {number}: the mask is of (H, W) {mask_size}, its image of {size}")
    if not is_rle:
        return encode(np.asarray(segmentation, dtype=bool)).decode("ascii")
    counts = segmentation["counts"]
    return counts if isinstance(counts, str) else encode_runs(counts, size).decode("ascii")
