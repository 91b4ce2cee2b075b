"""Prompts that a page sends, and the ground truth that they mean."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision.ops import box_iou

from mobile_sam.config import UserError
from mobile_sam.data.index import IndexedImage, Segment
from mobile_sam.data.masks import Mask, Size
from mobile_sam.inference.prompt import Prompt
from mobile_sam.metrics import iou
from mobile_sam.models.prompt_encoder import BACKGROUND, FOREGROUND

_MOST_POINTS = 100
_SAME_BOX = 0.5  # IoU of boxes that mean the same thing


def prompt_of(sent: Mapping[str, Any], size: Size) -> Prompt | None:
    """What a page has sent about an image of (H, W) pixels; anybody may have written it.

    sent: `points`, lists of x, y and label, and `box`, a list or null. None where both are empty.
    Raises UserError for anything else, and for what lies outside of the image.
    """
    points, box = sent.get("points"), sent.get("box")
    if not isinstance(points, list) or len(points) > _MOST_POINTS:
        raise UserError(f"points: a list of at most {_MOST_POINTS} points is needed")
    triples = [_numbers("points", point, 3) for point in points]
    for x, y, label in triples:
        _check_inside("points", (x, y), size)
        if label not in {FOREGROUND, BACKGROUND}:
            raise UserError(f"points: one has the label {label:g}; it must be 1 or 0")
    places = tuple((x, y) for x, y, _ in triples)
    labels = tuple(int(label) for *_, label in triples)
    if box is None:
        return Prompt(None, places, labels) if places else None
    x0, y0, x1, y1 = _numbers("box", box, 4)
    for corner in ((x0, y0), (x1, y1)):
        _check_inside("box", corner, size)
    return Prompt((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), places, labels)


def meant(record: IndexedImage, prompt: Prompt) -> Segment | None:
    """The segment of the ground truth that a prompt means, as far as can be told.

    Of a box the segment of the most similar box; of points the smallest segment at the first one
    on the thing. None where there is no such segment.
    """
    if prompt.box is not None:
        return _of_box(record.segments, prompt.box)
    if FOREGROUND not in prompt.labels:
        return None
    x, y = prompt.points[prompt.labels.index(FOREGROUND)]
    row, column = min(int(y), record.size[0] - 1), min(int(x), record.size[1] - 1)
    there = [segment for segment in record.segments if record.mask(segment)[row, column]]
    return min(there, key=lambda segment: segment.area, default=None)


def measured_iou(record: IndexedImage, segment: Segment, mask: Mask) -> float:
    """IoU of a mask (H, W) with a segment, as validation measures it."""
    known = mask & ~record.unknown() if record.ignored else mask
    return iou(known, record.mask(segment))


def _of_box(segments: Sequence[Segment], box: tuple[float, ...]) -> Segment | None:
    if not segments:
        return None
    boxes = torch.tensor([segment.box for segment in segments], dtype=torch.float64)
    shared = box_iou(boxes, torch.tensor([box], dtype=torch.float64))[:, 0]
    best = int(shared.argmax())
    return segments[best] if float(shared[best]) >= _SAME_BOX else None


def _numbers(what: str, given: Any, count: int) -> list[float]:
    is_list = isinstance(given, list) and len(given) == count
    if not is_list or not all(type(n) in {int, float} and math.isfinite(n) for n in given):
        raise UserError(f"{what}: {given!r}; {count} numbers are needed")
    return [float(number) for number in given]


def _check_inside(what: str, place: tuple[float, float], size: Size) -> None:
    (x, y), (height, width) = place, size
    if not (0 <= x <= width and 0 <= y <= height):
        raise UserError(f"{what}: ({x:g}, {y:g}) is not in the image of {width}x{height} pixels")
