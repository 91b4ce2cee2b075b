"""Synthetic scenes of overlapping textured shapes, written as image and mask files."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.data.masks import Mask

_MIN_VISIBLE_PIXELS = 40  # shapes with fewer visible pixels are not annotated


def write_scenes(directory: Path, count: int, size: int, seed: int) -> None:
    """Write `image/<id>.png` and `mask/<id>/obj_<k>.png` for `count` scenes.

    size: side of the images in pixels. A scene depends only on (seed, number).
    """
    for number in range(count):
        pixels, masks = scene(size, np.random.default_rng([seed, number]))
        name = f"scene_{number:05d}"
        mask_dir = directory / "mask" / name
        mask_dir.mkdir(parents=True, exist_ok=True)
        (directory / "image").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(directory / "image" / f"{name}.png")
        for k, mask in enumerate(masks):
            Image.fromarray(mask).save(mask_dir / f"obj_{k}.png")


def scene(size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[Mask]]:
    """Draw an image (size, size, 3), and return it with the visible masks of its 3 to 6 shapes."""
    canvas = _random_texture(size, rng)
    shapes: list[Mask] = []
    for _ in range(rng.integers(3, 7)):
        shape = _random_shape(size, rng)
        canvas[shape] = _random_texture(size, rng)[shape]
        shapes = [other & ~shape for other in shapes] + [shape]
    noisy = canvas + rng.normal(0, 6, canvas.shape)
    visible = [mask for mask in shapes if np.count_nonzero(mask) >= _MIN_VISIBLE_PIXELS]
    return np.clip(noisy, 0, 255).astype(np.uint8), visible


def _random_texture(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return stripes of two colours, (size, size, 3)."""
    base, other = rng.uniform(30, 225, 3), rng.uniform(-35, 35, 3)
    angle, period = rng.uniform(0, np.pi), rng.uniform(size / 24, size / 5)
    y, x = np.mgrid[:size, :size]
    phase = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period
    return base + np.sin(phase)[..., None] * other


def _random_shape(size: int, rng: np.random.Generator) -> Mask:
    """Return the mask (size, size) of an ellipse, a rotated rectangle, a star or a ring."""
    canvas = np.zeros((size, size), dtype=np.uint8)
    centre = rng.uniform(0.15, 0.85, 2) * size
    radius = rng.uniform(0.1, 0.26) * size
    kind = rng.choice(["ellipse", "rectangle", "star", "ring"])
    angle = rng.uniform(0, 2 * np.pi)
    if kind in {"ellipse", "ring"}:
        axes = (int(radius), int(radius * rng.uniform(0.5, 1)))
        middle = (int(centre[0]), int(centre[1]))
        cv2.ellipse(canvas, middle, axes, np.degrees(angle), 0, 360, 1, -1)
        if kind == "ring":
            inner = (axes[0] // 2, axes[1] // 2)
            cv2.ellipse(canvas, middle, inner, np.degrees(angle), 0, 360, 0, -1)
    else:
        corners = 4 if kind == "rectangle" else 2 * int(rng.integers(4, 7))
        angles = angle + np.linspace(0, 2 * np.pi, corners, endpoint=False)
        radii = radius * np.where((np.arange(corners) % 2 == 0) | (kind == "rectangle"), 1, 0.5)
        outline = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(canvas, [outline.astype(np.int32)], 1)
    return canvas.astype(bool)
