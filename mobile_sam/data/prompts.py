"""Prompts that point at a segment: drawn at random in training, fixed in validation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobile_sam.data.masks import Mask, bounding_box, interior_point

# SAM's labels of prompt points; a box is its two corners, a lone point gets a padding point.
_PADDING, _FOREGROUND, _TOP_LEFT, _BOTTOM_RIGHT = -1, 1, 2, 3


@dataclass(frozen=True)
class Prompt:
    """Two labelled points. points: (2, 2) float xy in pixels; labels: (2,) as SAM numbers them."""

    points: NDArray[np.float32]
    labels: NDArray[np.int64]


def box_prompt(box: tuple[float, float, float, float]) -> Prompt:
    """The prompt of a box, xyxy in pixels."""
    corners = np.array(box, dtype=np.float32).reshape(2, 2)
    return Prompt(corners, np.array([_TOP_LEFT, _BOTTOM_RIGHT]))


def point_prompt(x: float, y: float) -> Prompt:
    """The prompt of one foreground point, xy in pixels."""
    points = np.array([[x, y], [0, 0]], dtype=np.float32)
    return Prompt(points, np.array([_FOREGROUND, _PADDING]))


def random_prompt(
    mask: Mask, box_share: float, box_jitter: float, rng: np.random.Generator
) -> Prompt:
    """A box around the mask or a point in it, in the mask's frame.

    mask: (H, W), not empty. box_share: probability of a box.
    box_jitter: standard deviation of each corner in sides of the box, at most 20 pixels
    (SAM, arXiv:2304.02643, appendix A: 10 % and 20 pixels).
    """
    if rng.random() < box_share:
        box = np.array(bounding_box(mask), dtype=np.float64)
        sides = np.tile(box[2:] - box[:2], 2)
        noise = np.clip(rng.normal(0, 1, 4) * box_jitter * sides, -20, 20)
        height, width = mask.shape
        x0, y0, x1, y1 = np.clip(box + noise, 0, [width, height, width, height])
        return box_prompt((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
    inside = np.flatnonzero(mask)
    y, x = np.unravel_index(int(inside[rng.integers(len(inside))]), mask.shape)
    return point_prompt(float(x), float(y))


def exact_box(mask: Mask) -> Prompt:
    """The bounding box of the mask."""
    return box_prompt(bounding_box(mask))


def deepest_point(mask: Mask) -> Prompt:
    """The pixel that lies deepest inside the mask."""
    return point_prompt(*interior_point(mask))


# The prompts of validation, by the name in its tables.
VALIDATION_PROMPTS: dict[str, Callable[[Mask], Prompt]] = {
    "box": exact_box,
    "point": deepest_point,
}
