"""What is asked about a picture: points, a box, or both; and the ground truth that it means."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from mobile_sam.config import UserError
from mobile_sam.data.index import IndexedImage, Segment
from mobile_sam.data.masks import Mask, Size
from mobile_sam.metrics import iou
from mobile_sam.models.prompt_encoder import BACKGROUND, FOREGROUND

_MOST_POINTS = 100
_SAME_BOX = 0.5  # IoU of boxes that mean the same thing


@dataclass(frozen=True)
class Question:
    """A prompt in the image frame, in pixels.

    points: (x, y, label), where the label is 1 for the thing and 0 for what is not of it.
    box: (x0, y0, x1, y1), or None.
    """

    points: tuple[tuple[float, float, int], ...] = ()
    box: tuple[float, float, float, float] | None = None

    def __bool__(self) -> bool:
        return bool(self.points) or self.box is not None

    def arguments(self) -> dict[str, Any]:
        """What `SamPredictor.predict` takes."""
        if not self.points:
            return {"box": np.array(self.box)}
        coords = np.array([(x, y) for x, y, _ in self.points], dtype=np.float64)
        points = {"point_coords": coords, "point_labels": np.array([p[2] for p in self.points])}
        return points if self.box is None else points | {"box": np.array(self.box)}


NOTHING = Question()


def question_of(said: Mapping[str, Any], size: Size) -> Question:
    """What a page has sent about an image of (H, W) pixels; anybody may have written it.

    said: `points`, lists of x, y and label, and `box`, a list or null. Raises UserError for
    anything else, and for what lies outside of the image.
    """
    points, box = said.get("points"), said.get("box")
    if not isinstance(points, list) or len(points) > _MOST_POINTS:
        raise UserError(f"points: a list of at most {_MOST_POINTS} points is needed")
    found = []
    for point in points:
        x, y, label = _numbers("points", point, 3)
        if label not in {FOREGROUND, BACKGROUND}:
            raise UserError(f"points: {point} has the label {label:g}; it must be 1 or 0")
        _check_inside("points", (x, y), size)
        found.append((x, y, int(label)))
    if box is None:
        return Question(tuple(found))
    x0, y0, x1, y1 = _numbers("box", box, 4)
    _check_inside("box", (x0, y0), size)
    _check_inside("box", (x1, y1), size)
    return Question(tuple(found), (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))


def meant(record: IndexedImage, question: Question) -> Segment | None:
    """The segment of the ground truth that a question means, as far as can be told.

    Of a box the segment of the most similar box; of points the smallest segment at the first one
    on the thing. None where there is no such segment.
    """
    if question.box is not None:
        return _of_box(record.segments, question.box)
    on = [(x, y) for x, y, label in question.points if label == FOREGROUND]
    height, width = record.size
    for x, y in on[:1]:
        column, row = min(int(x), width - 1), min(int(y), height - 1)
        at = [segment for segment in record.segments if record.mask(segment)[row, column]]
        return min(at, key=lambda segment: segment.area, default=None)
    return None


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
