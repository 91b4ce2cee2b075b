"""Average precision of a detector's boxes, segmented by a model, as in COCO and LVIS.

Zero-shot instance segmentation of SAM (Kirillov et al., arXiv:2304.02643, section 7.4): each box is
a prompt, and its mask keeps the class and score of the box.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import torch

from mobile_sam.config.sections import ImageOptions
from mobile_sam.data.images import DEFAULT_OPTIONS, read_image
from mobile_sam.data.index.table import IndexedImage
from mobile_sam.data.masks import Size, encode_crop
from mobile_sam.data.record import normalise_name
from mobile_sam.data.records import find_records
from mobile_sam.data.sampling.prompts import box_prompt
from mobile_sam.evaluation.encoded import EncodedImage, load_frame, prompts_per_batch
from mobile_sam.metrics.average_precision import average_precision
from mobile_sam.models.sam import Sam
from mobile_sam.system.errors import ConfigError


class Detection(msgspec.Struct, gc=False):
    """Box in COCO's results format. bbox: (x, y, width, height) in pixels of the image frame."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def measure_detections(
    model: Sam,
    detections: Path,
    annotations: Path,
    images: Path,
    threshold: float,
    options: ImageOptions = DEFAULT_OPTIONS,
) -> dict[str, float]:
    """Return AP, AR and related metrics of `detections` segmented by `model`, in eval mode.

    detections: JSON in COCO's results format. annotations: the COCO or LVIS file with the ground
    truth. images: the directory of its images, read with `options`. threshold: of mask logits.
    Raises ConfigError for files of another format, and for boxes with images or classes that the
    annotations lack.
    """
    boxes_by_image = defaultdict(list)
    for detection in read_detections(detections):
        boxes_by_image[detection.image_id].append(detection)
    records = find_records(images, annotations)
    if records.problems:
        raise ConfigError("; ".join(records.problems))
    truth = json.loads(annotations.read_text(encoding="utf-8-sig"))
    paths = {record.image_id: record.image_path for record in records.records}
    results: list[dict[str, Any]] = []
    for image in truth["images"]:
        boxes = boxes_by_image.pop(image["id"], [])
        if boxes:
            path = paths[_image_id(image, paths)]
            results += _segment_boxes(model, path, boxes, threshold, options)
    if boxes_by_image:
        raise ConfigError(
            f"detections: {detections}: image_id {next(iter(boxes_by_image))} is not in "
            f"{annotations}; give boxes on the validation images"
        )
    try:
        return average_precision(truth, results)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"detections: {detections} with {annotations}: {error}") from error


def _image_id(image: dict[str, Any], records: dict[str, Path]) -> str:
    """Return the id of the record for a COCO image, whose file name may have more directories."""
    name = image.get("file_name") or image.get("coco_url") or ""
    path = PurePosixPath(normalise_name(name.replace("\\", "/"))).with_suffix("")
    for start in range(len(path.parts)):
        image_id = PurePosixPath(*path.parts[start:]).as_posix()
        if image_id in records:
            return image_id
    raise ConfigError(f"detections: image {name!r} of the annotations is not among the images")


def read_detections(path: Path) -> list[Detection]:
    """Read a file of boxes. Raises ConfigError if it is missing or has another format."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Detection])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"detections: {path}: not in COCO's results format ({error}); write a list of "
            "{image_id, category_id, bbox: [x, y, width, height], score}"
        ) from error


@torch.no_grad()
def _segment_boxes(
    model: Sam, path: Path, boxes: list[Detection], threshold: float, options: ImageOptions
) -> Iterator[dict[str, Any]]:
    height, width = read_image(path, options).shape[:2]
    size: Size = (height, width)
    record = IndexedImage(path.stem, path, "", size, (), options=options)
    image = EncodedImage(model, load_frame(record, model.img_size), record)
    count = prompts_per_batch(size, masks=1)
    for start in range(0, len(boxes), count):
        batch = boxes[start : start + count]
        prompts = [box_prompt((x, y, x + w, y + h)) for x, y, w, h in (b.bbox for b in batch)]
        masks = image.predict(image.decode(prompts).low_res_logits[:, 0], threshold)
        for box, mask in zip(batch, masks, strict=True):
            yield {
                "image_id": box.image_id,
                "category_id": box.category_id,
                "score": box.score,
                "segmentation": {"size": list(size), "counts": encode_crop(mask)},
            }
