"""Prompts that the page sends, and the ground truth that they match."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision.ops import box_iou

from mobile_sam.data.index.table import IndexedImage, Segment
from mobile_sam.data.masks import Mask, Size
from mobile_sam.inference.prompt import Prompt
from mobile_sam.metrics import iou
from mobile_sam.models.prompt_encoder import BACKGROUND, FOREGROUND
from mobile_sam.system.errors import UserError

_MAX_POINTS = 100
_MIN_BOX_IOU = 0.5  # of boxes of the same object


def parse_prompt(message: Mapping[str, Any], size: Size) -> Prompt | None:
    """Validate a prompt from the page on an image of (H, W) pixels; its content is not trusted.

    message: `points`, lists of x, y and label, and `box`, a list or null.
    Returns None if both are empty. Raises UserError for anything else, and for points or corners
    outside of the image.
    """
    points, box = message.get("points"), message.get("box")
    if not isinstance(points, list) or len(points) > _MAX_POINTS:
        raise UserError(f"points: a list of at most {_MAX_POINTS} points is needed")
    triples = [_numbers("points", point, 3) for point in points]
    for x, y, label in triples:
        _check_inside("points", (x, y), size)
        if label not in {FOREGROUND, BACKGROUND}:
            raise UserError(f"points: one has the label {label:g}; it must be 1 or 0")
    coords = tuple((x, y) for x, y, _ in triples)
    labels = tuple(int(label) for *_, label in triples)
    if box is None:
        return Prompt(None, coords, labels) if coords else None
    x0, y0, x1, y1 = _numbers("box", box, 4)
    for corner in ((x0, y0), (x1, y1)):
        _check_inside("box", corner, size)
    return Prompt((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), coords, labels)


def match_segment(record: IndexedImage, prompt: Prompt) -> Segment | None:
    """Return the segment of the ground truth that matches a prompt.

    For a box, the segment with the most similar box; for points, the smallest segment at the first
    foreground point. None if there is no such segment.
    """
    if prompt.box is not None:
        return _match_box(record.segments, prompt.box)
    if FOREGROUND not in prompt.labels:
        return None
    x, y = prompt.points[prompt.labels.index(FOREGROUND)]
    row, column = min(int(y), record.size[0] - 1), min(int(x), record.size[1] - 1)
    hits = [segment for segment in record.segments if record.mask(segment)[row, column]]
    return min(hits, key=lambda segment: segment.area, default=None)


def measured_iou(record: IndexedImage, segment: Segment, mask: Mask) -> float:
    """Compute the IoU of a mask (H, W) with a segment, as validation does."""
    known = mask & ~record.unknown() if record.ignored else mask
    return iou(known, record.mask(segment))


def _match_box(segments: Sequence[Segment], box: tuple[float, ...]) -> Segment | None:
    if not segments:
        return None
    boxes = torch.tensor([segment.box for segment in segments], dtype=torch.float64)
    ious = box_iou(boxes, torch.tensor([box], dtype=torch.float64))[:, 0]
    best = int(ious.argmax())
    return segments[best] if float(ious[best]) >= _MIN_BOX_IOU else None


def _numbers(key: str, value: Any, count: int) -> list[float]:
    is_list = isinstance(value, list) and len(value) == count
    if not is_list or not all(type(n) in {int, float} and math.isfinite(n) for n in value):
        raise UserError(f"{key}: {value!r}; {count} numbers are needed")
    return [float(number) for number in value]


def _check_inside(key: str, point: tuple[float, float], size: Size) -> None:
    (x, y), (height, width) = point, size
    if not (0 <= x <= width and 0 <= y <= height):
        raise UserError(f"{key}: ({x:g}, {y:g}) is not in the image of {width}x{height} pixels")
