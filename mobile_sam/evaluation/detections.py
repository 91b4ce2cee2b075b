"""A detector's boxes, segmented: AP as COCO and LVIS measure it.

Zero-shot instance segmentation of SAM (Kirillov et al., arXiv:2304.02643, section 7.4): each box is
a prompt, and its mask keeps the box's class and score.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from mobile_sam.config import ConfigError
from mobile_sam.data.images import read_image
from mobile_sam.data.index import IndexedImage
from mobile_sam.data.masks import Size, encode
from mobile_sam.data.prompts import box_prompt
from mobile_sam.data.records import find_records
from mobile_sam.evaluation.encoded import EncodedImage, frame_of, prompts_at_once
from mobile_sam.metrics.average_precision import average_precision
from mobile_sam.models.sam import Sam


class Detection(msgspec.Struct, gc=False):
    """One box of COCO's results. bbox: (x, y, width, height) in pixels of the image frame."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def detected_precision(
    model: Sam, detections: Path, annotations: Path, images: Path, threshold: float
) -> dict[str, float]:
    """AP and its relatives of the boxes in `detections`, segmented by `model`, in eval mode.

    detections: JSON of COCO's results. annotations: the COCO or LVIS file they are measured by.
    images: the directory of its images. threshold: of mask logits.
    Raises ConfigError for files of another form, and for boxes of images or classes that the
    annotations lack.
    """
    of_image = defaultdict(list)
    for detection in read_detections(detections):
        of_image[detection.image_id].append(detection)
    records = find_records(images, annotations)
    if records.problems:
        raise ConfigError("; ".join(records.problems))
    truth = json.loads(annotations.read_text())
    paths = {record.image_id: record.image_path for record in records.records}
    results: list[dict[str, Any]] = []
    for image in truth["images"]:
        boxes = of_image.pop(image["id"], [])
        path = paths[Path(image["file_name"]).with_suffix("").as_posix()]
        if boxes:
            results += _segmented(model, path, boxes, threshold)
    if of_image:
        raise ConfigError(
            f"detections: {detections}: image_id {next(iter(of_image))} is none of {annotations}; "
            "give boxes on the validation images"
        )
    try:
        return average_precision(truth, results)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"detections: {detections} by {annotations}: {error}") from error


def read_detections(path: Path) -> list[Detection]:
    """The boxes of a file. Raises ConfigError when it is missing or of another form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Detection])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"detections: {path}: not boxes as COCO has results ({error}); write a list of "
            "{image_id, category_id, bbox: [x, y, width, height], score}"
        ) from error


@torch.no_grad()
def _segmented(
    model: Sam, path: Path, boxes: list[Detection], threshold: float
) -> Iterator[dict[str, Any]]:
    height, width = read_image(path).shape[:2]
    size: Size = (height, width)
    record = IndexedImage(path.stem, path, "", size, ())
    image = EncodedImage(model, frame_of(record, model.img_size), record)
    count = prompts_at_once(size, masks=1)
    for start in range(0, len(boxes), count):
        some = boxes[start : start + count]
        prompts = [box_prompt((x, y, x + w, y + h)) for x, y, w, h in (b.bbox for b in some)]
        logits = image.upscale(image.decode(prompts).low_res_logits)[:, 0]
        for box, mask in zip(some, (logits > threshold).cpu().numpy(), strict=True):
            yield {
                "image_id": box.image_id,
                "category_id": box.category_id,
                "score": box.score,
                "segmentation": {"size": list(size), "counts": encode(mask)},
            }
