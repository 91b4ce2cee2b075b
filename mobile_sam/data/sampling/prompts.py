"""Prompts for a segment: drawn at random in training, fixed in validation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mobile_sam.config.sections import Prompts
from mobile_sam.data.masks import Mask, Size, bounding_box, interior_point
from mobile_sam.metrics.mask_crop import MaskCrop, crop_mask

# SAM's labels of prompt points; _UNUSED marks points that only fill up a batch. A box is its two
# corners; points without a box are followed by one padding point.
_UNUSED, _PADDING, _BACKGROUND, _FOREGROUND, _TOP_LEFT, _BOTTOM_RIGHT = range(-2, 4)

# Low-res logits of a certain pixel; most of MobileSAM's are between -20 and 20.
LOGIT = 10.0
# Largest perturbations of a mask: fractions of the side of a square with the segment's area.
_LARGEST_SHIFT, _LARGEST_GROWTH = 0.1, 0.15
_LARGEST_BLUR = 2.0  # standard deviation in low-res pixels


@dataclass(frozen=True)
class Prompt:
    """Prompt of T labelled points, with an optional mask.

    points: (T, 2) float xy in pixels; labels: (T,) with SAM's numbers.
    mask: low_res_logits (S/4, S/4) like those of an earlier prediction, or None.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    mask: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Target:
    """Segment to draw a prompt for. mask: (S, S), not empty; size: (H, W) of the image within it.

    valid: (S, S), false on ignored pixels; None if no pixel is ignored.
    """

    mask: Mask
    size: tuple[int, int]
    valid: Mask | None = None


def box_prompt(box: tuple[float, float, float, float]) -> Prompt:
    """Return the prompt of a box, xyxy in pixels."""
    corners = np.array(box, dtype=np.float32).reshape(2, 2)
    return Prompt(corners, np.array([_TOP_LEFT, _BOTTOM_RIGHT]))


def point_prompt(x: float, y: float) -> Prompt:
    """Return the prompt of one foreground point, xy in pixels."""
    return points_prompt(np.array([[x, y]]), np.zeros((0, 2)))


def points_prompt(foreground: NDArray[Any], background: NDArray[Any]) -> Prompt:
    """Return the prompt of foreground points (N, 2) and background points (M, 2), xy in pixels."""
    points = np.concatenate([foreground, background, np.zeros((1, 2))]).astype(np.float32)
    counts = [len(foreground), len(background), 1]
    return Prompt(points, np.repeat([_FOREGROUND, _BACKGROUND, _PADDING], counts))


def jittered_box(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """Draw a box around the segment, with normal noise on its coordinates.

    settings.box_jitter: standard deviation as a fraction of the box's sides. The noise is at most
    20 pixels. SAM uses 10 % and 20 pixels (arXiv:2304.02643, appendix A).
    """
    box = np.array(bounding_box(target.mask), dtype=np.float64)
    sides = np.tile(box[2:] - box[:2], 2)
    noise = np.clip(rng.normal(0, 1, 4) * settings.box_jitter * sides, -20, 20)
    height, width = target.mask.shape
    x0, y0, x1, y1 = np.clip(box + noise, 0, [width, height, width, height])
    return box_prompt((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))


def random_point(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """Draw a pixel of the segment."""
    inside = np.flatnonzero(target.mask)
    y, x = np.unravel_index(int(inside[rng.integers(len(inside))]), target.mask.shape)
    return point_prompt(float(x), float(y))


def most_interior_point(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """Return the deepest pixel of the segment."""
    return deepest_point(target.mask)


def several_points(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """Draw 2 to `max_points` pixels of the segment and up to `max_negative_points` near it.

    A smaller segment gives all of its pixels; without background there is no negative point.
    """
    foreground = int(rng.integers(2, settings.max_points, endpoint=True))
    background = int(rng.integers(0, settings.max_negative_points, endpoint=True))
    return points_prompt(
        _sample_pixels(target.mask, foreground, rng),
        _sample_pixels(surroundings(target), background, rng),
    )


def surroundings(target: Target) -> Mask:
    """Return the background (S, S) near the segment, without ignored pixels.

    It lies in the segment's box, enlarged by half a side in each direction. If this box has no
    background, all background of the image is returned.
    """
    height, width = target.size
    x0, y0, x1, y1 = bounding_box(target.mask)
    dx, dy = max((x1 - x0) // 2, 1), max((y1 - y0) // 2, 1)
    near = np.zeros_like(target.mask)
    near[max(y0 - dy, 0) : min(y1 + dy, height), max(x0 - dx, 0) : min(x1 + dx, width)] = True
    background = ~target.mask if target.valid is None else ~target.mask & target.valid
    near &= background
    if not near.any():
        near[:height, :width] = background[:height, :width]
    return near


def _sample_pixels(mask: Mask, count: int, rng: np.random.Generator) -> NDArray[Any]:
    """Draw up to `count` different pixels of the mask, (N, 2) xy."""
    pixels = np.flatnonzero(mask)
    drawn = rng.choice(pixels, min(count, len(pixels)), replace=False)
    y, x = np.unravel_index(drawn, mask.shape)
    return np.stack([x, y], axis=1)


def mask_prompt(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """Draw a mask like that of a poor earlier prediction, with a box or a point."""
    companion = jittered_box if rng.random() < 0.5 else random_point
    prompt = companion(target, settings, rng)
    return replace(prompt, mask=perturbed_mask_logits(target.mask, target.size, rng))


def perturbed_mask_logits(
    mask: Mask, size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return low_res_logits (S/4, S/4), within -LOGIT and LOGIT, of a perturbed mask.

    The mask is shifted, then eroded or dilated, each by a random fraction of its extent, and
    blurred. A mask that would vanish is only blurred.
    mask: (S, S), not empty, S a multiple of 4; size: (H, W) of the image within it.
    """
    side = np.sqrt(mask.sum())
    moved = _shift(mask, np.rint(rng.uniform(-1, 1, 2) * _LARGEST_SHIFT * side).astype(int))
    moved = _dilate(moved, rng.uniform(-1, 1) * _LARGEST_GROWTH * side)
    moved[size[0] :], moved[:, size[1] :] = False, False
    blur = rng.uniform(0, _LARGEST_BLUR)
    perturbed = moved if moved.any() else mask
    low_res = (mask.shape[1] // 4, mask.shape[0] // 4)
    coverage = cv2.resize(perturbed.astype(np.float32), low_res, interpolation=cv2.INTER_AREA)
    if blur > 0.1:  # a narrower blur changes nothing
        coverage = cv2.GaussianBlur(coverage, (0, 0), blur, borderType=cv2.BORDER_REPLICATE)
    return (LOGIT * (2 * coverage - 1)).astype(np.float32)


def _shift(mask: Mask, by: NDArray[np.int_]) -> Mask:
    """Move the mask by (x, y) pixels; pixels that leave the frame are lost."""
    x0, y0, x1, y1 = bounding_box(mask)
    height, width = mask.shape
    left, top = max(x0, -by[0]), max(y0, -by[1])
    right, bottom = min(x1, width - by[0]), min(y1, height - by[1])
    moved = np.zeros_like(mask)
    if left < right and top < bottom:
        target = np.s_[top + by[1] : bottom + by[1], left + by[0] : right + by[0]]
        moved[target] = mask[top:bottom, left:right]
    return moved


def _dilate(mask: Mask, radius: float) -> Mask:
    """Dilate the mask by `radius` pixels; erode it if the radius is negative."""
    outside = radius > 0
    source = (mask != outside).astype(np.uint8)
    distance = cv2.distanceTransform(source, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= radius if outside else distance > -radius


def random_prompt(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """Draw a prompt of a kind drawn by its share, filled up to `num_points(settings)` points."""
    kinds = [kind for kind in TRAINING_PROMPTS if settings.shares[kind] > 0]
    bounds = np.cumsum([settings.shares[kind] for kind in kinds])
    drawn = rng.random()  # also if all shares are 0, in a stage that uses no masks
    kind = "point"
    if kinds:
        number = int(np.searchsorted(bounds / bounds[-1], drawn, side="right"))
        kind = kinds[min(number, len(kinds) - 1)]
    return _pad_prompt(TRAINING_PROMPTS[kind](target, settings, rng), settings)


def prompt_anywhere(size: Size, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """Draw a box or point in an image without masks, filled up to `num_points(settings)` points.

    size: (H, W) of the image in the model frame. Boxes have the share of `box` among boxes and all
    kinds of points; one half if the settings have neither.
    """
    points = settings.point + settings.interior_point + settings.points
    boxes = settings.box / (settings.box + points) if settings.box + points else 0.5
    kind = _box_anywhere if rng.random() < boxes else _point_anywhere
    return _pad_prompt(kind(size, rng), settings)


def _box_anywhere(size: Size, rng: np.random.Generator) -> Prompt:
    """Draw a box whose sides are 5 % to 60 % of the image's sides."""
    height, width = size
    w, h = rng.uniform(0.05, 0.6, 2) * (width, height)
    x, y = rng.uniform(0, 1, 2) * (width - w, height - h)
    return box_prompt((x, y, x + w, y + h))


def _point_anywhere(size: Size, rng: np.random.Generator) -> Prompt:
    y, x = rng.integers(size)
    return point_prompt(float(x), float(y))


def _pad_prompt(prompt: Prompt, settings: Prompts) -> Prompt:
    missing = num_points(settings) - len(prompt.labels)
    return replace(
        prompt,
        points=np.pad(prompt.points, ((0, missing), (0, 0))),
        labels=np.pad(prompt.labels, (0, missing), constant_values=_UNUSED),
    )


def num_points(settings: Prompts) -> int:
    """Return T, the number of points that each prompt is filled up to."""
    return settings.max_points + settings.max_negative_points + 1 if settings.points else 2


def exact_box(mask: Mask | MaskCrop) -> Prompt:
    """Return the bounding box of the mask."""
    return box_prompt(crop_mask(mask).box)


def deepest_point(mask: Mask | MaskCrop) -> Prompt:
    """Return the deepest pixel of the mask."""
    return point_prompt(*interior_point(mask))


# Training prompts by the key of their share in `prompts`. Add a new one at the end: prompts are
# drawn in this order, so that a share of 0 does not change the others.
TRAINING_PROMPTS: dict[str, Callable[[Target, Prompts, np.random.Generator], Prompt]] = {
    "box": jittered_box,
    "point": random_point,
    "interior_point": most_interior_point,
    "points": several_points,
    "mask": mask_prompt,
}

# Validation prompts by their name in the tables.
VALIDATION_PROMPTS: dict[str, Callable[[Mask | MaskCrop], Prompt]] = {
    "box": exact_box,
    "point": deepest_point,
}
