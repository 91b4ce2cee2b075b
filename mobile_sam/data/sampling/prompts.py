"""Prompts that point at a segment: drawn at random in training, fixed in validation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.config.sections import Prompts
from mobile_sam.data.masks import Mask, Size, bounding_box, interior_point
from mobile_sam.data.sampling.mask_perturbation import perturbed_mask_logits
from mobile_sam.metrics.mask_crop import MaskCrop, crop_mask

# SAM's labels of prompt points, and one for points that only fill up a batch. A box is its two
# corners; points without a box are followed by one padding point.
_UNUSED, _PADDING, _BACKGROUND, _FOREGROUND, _TOP_LEFT, _BOTTOM_RIGHT = range(-2, 4)


@dataclass(frozen=True)
class Prompt:
    """T labelled points, and perhaps a mask.

    points: (T, 2) float xy in pixels; labels: (T,) as SAM numbers them.
    mask: low_res_logits as of an earlier prediction, (S/4, S/4), or None.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    mask: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Target:
    """A segment to point at. mask: (S, S), not empty; size: (H, W) of the image within it.

    valid: (S, S), false where nothing is known of the image; None: all of it is known.
    """

    mask: Mask
    size: tuple[int, int]
    valid: Mask | None = None


def box_prompt(box: tuple[float, float, float, float]) -> Prompt:
    """The prompt of a box, xyxy in pixels."""
    corners = np.array(box, dtype=np.float32).reshape(2, 2)
    return Prompt(corners, np.array([_TOP_LEFT, _BOTTOM_RIGHT]))


def point_prompt(x: float, y: float) -> Prompt:
    """The prompt of one foreground point, xy in pixels."""
    return points_prompt(np.array([[x, y]]), np.zeros((0, 2)))


def points_prompt(foreground: NDArray[Any], background: NDArray[Any]) -> Prompt:
    """The prompt of points on a segment (N, 2) and beside it (M, 2), xy in pixels."""
    points = np.concatenate([foreground, background, np.zeros((1, 2))]).astype(np.float32)
    counts = [len(foreground), len(background), 1]
    return Prompt(points, np.repeat([_FOREGROUND, _BACKGROUND, _PADDING], counts))


def jittered_box(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """A box around the segment whose corners are moved, at most by 20 pixels.

    10 % of the box's sides and 20 pixels are SAM's own (arXiv:2304.02643, appendix A).
    """
    box = np.array(bounding_box(target.mask), dtype=np.float64)
    sides = np.tile(box[2:] - box[:2], 2)
    noise = np.clip(rng.normal(0, 1, 4) * settings.box_jitter * sides, -20, 20)
    height, width = target.mask.shape
    x0, y0, x1, y1 = np.clip(box + noise, 0, [width, height, width, height])
    return box_prompt((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))


def random_point(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """Any pixel of the segment."""
    inside = np.flatnonzero(target.mask)
    y, x = np.unravel_index(int(inside[rng.integers(len(inside))]), target.mask.shape)
    return point_prompt(float(x), float(y))


def most_interior_point(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """The pixel that lies deepest inside the segment."""
    return deepest_point(target.mask)


def several_points(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """2 to `max_points` pixels of the segment, up to `max_negative_points` near it.

    A segment of fewer pixels gives them all; without any background there is no negative point.
    """
    foreground = int(rng.integers(2, settings.max_points, endpoint=True))
    background = int(rng.integers(0, settings.max_negative_points, endpoint=True))
    on, beside = target.mask, surroundings(target)
    return points_prompt(
        _sample_pixels(on, foreground, rng), _sample_pixels(beside, background, rng)
    )


def surroundings(target: Target) -> Mask:
    """Background (S, S) within the segment's box enlarged by half a side in each direction.

    Where nothing is known of the image there is no background either.
    Anywhere in the image where the enlarged box has no background.
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
    """Up to `count` different pixels of the mask, (N, 2) xy."""
    pixels = np.flatnonzero(mask)
    chosen = rng.choice(pixels, min(count, len(pixels)), replace=False)
    y, x = np.unravel_index(chosen, mask.shape)
    return np.stack([x, y], axis=1)


def mask_prompt(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """A mask as a poor earlier prediction would be, with a box or a point."""
    companion = jittered_box if rng.random() < 0.5 else random_point
    prompt = companion(target, settings, rng)
    return replace(prompt, mask=perturbed_mask_logits(target.mask, target.size, rng))


def random_prompt(target: Target, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """A prompt of a kind drawn by its share, filled up to `num_points(settings)` points."""
    kinds = [kind for kind in TRAINING_PROMPTS if settings.shares[kind] > 0]
    bounds = np.cumsum([settings.shares[kind] for kind in kinds])
    drawn = rng.random()  # also where all shares are 0, in a stage that looks at no masks
    kind = "point"
    if kinds:
        number = int(np.searchsorted(bounds / bounds[-1], drawn, side="right"))
        kind = kinds[min(number, len(kinds) - 1)]
    return _pad_prompt(TRAINING_PROMPTS[kind](target, settings, rng), settings)


def prompt_anywhere(size: Size, settings: Prompts, rng: np.random.Generator) -> Prompt:
    """A box or a point in an image without masks, filled up to `num_points(settings)` points.

    size: (H, W) of the image in the model frame. The share of boxes is theirs among boxes and
    points of all kinds; one half where the settings have neither.
    """
    points = settings.point + settings.interior_point + settings.points
    boxes = settings.box / (settings.box + points) if settings.box + points else 0.5
    kind = _box_anywhere if rng.random() < boxes else _point_anywhere
    return _pad_prompt(kind(size, rng), settings)


def _box_anywhere(size: Size, rng: np.random.Generator) -> Prompt:
    """A box whose sides are 5 % to 60 % of the image's."""
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
    """T, the number of points that each prompt is filled up to."""
    return settings.max_points + settings.max_negative_points + 1 if settings.points else 2


def exact_box(mask: Mask | MaskCrop) -> Prompt:
    """The bounding box of the mask."""
    return box_prompt(crop_mask(mask).box)


def deepest_point(mask: Mask | MaskCrop) -> Prompt:
    """The pixel that lies deepest inside the mask."""
    return point_prompt(*interior_point(mask))


# The prompts of training, by the key of their share in `prompts`. A new one goes to the end: the
# order is that of the draw, so that a share of 0 changes nothing for the others.
TRAINING_PROMPTS: dict[str, Callable[[Target, Prompts, np.random.Generator], Prompt]] = {
    "box": jittered_box,
    "point": random_point,
    "interior_point": most_interior_point,
    "points": several_points,
    "mask": mask_prompt,
}

# The prompts of validation, by the name in its tables.
VALIDATION_PROMPTS: dict[str, Callable[[Mask | MaskCrop], Prompt]] = {
    "box": exact_box,
    "point": deepest_point,
}
