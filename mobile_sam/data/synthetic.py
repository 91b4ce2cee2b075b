"""Synthetic scenes of overlapping shapes or cells, written as image and mask files."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.config.sections import SceneObjects
from mobile_sam.data.masks import Mask

_MIN_VISIBLE_PIXELS = 40  # shapes with fewer visible pixels are not annotated


def write_scenes(
    directory: Path, count: int, size: int, seed: int, objects: SceneObjects = "shapes"
) -> None:
    """Write `image/<id>.png` and `mask/<id>/obj_<k>.png` for `count` scenes.

    size: side of the images in pixels. A scene depends only on (size, seed, number, objects).
    """
    draw = {"shapes": scene, "cells": scene_of_cells}[objects]
    for number in range(count):
        pixels, masks = draw(size, np.random.default_rng([seed, number]))
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
    return _finish(canvas, shapes, rng)


def scene_of_cells(size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[Mask]]:
    """Draw an image (size, size, 3) of 4 to 7 cells, bent rods, and return it with their masks."""
    y, x = np.mgrid[:size, :size][..., None] / size
    canvas = rng.uniform(10, 60, 3) + x * rng.uniform(-25, 25, 3) + y * rng.uniform(-25, 25, 3)
    cells: list[Mask] = []
    for _ in range(rng.integers(4, 8)):
        cell = _bent_rod(size, rng)
        depth = cv2.distanceTransform(cell.astype(np.uint8), cv2.DIST_L2, 3)[cell]
        brightness = 0.45 + 0.55 * np.minimum(1.4 * depth / depth.max(initial=1), 1)
        canvas[cell] = rng.uniform(70, 240, 3) * brightness[:, None]
        cells = [other & ~cell for other in cells] + [cell]
    return _finish(cv2.GaussianBlur(canvas, (3, 3), 0), cells, rng)


def _finish(
    canvas: NDArray[np.float64], objects: list[Mask], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Mask]]:
    """Add noise to the image, and leave out objects that are nearly hidden."""
    noisy = canvas + rng.normal(0, 6, canvas.shape)
    visible = [mask for mask in objects if np.count_nonzero(mask) >= _MIN_VISIBLE_PIXELS]
    return np.clip(noisy, 0, 255).astype(np.uint8), visible


def _bent_rod(size: int, rng: np.random.Generator) -> Mask:
    """Return the mask (size, size) of a thick line with round ends, bent by up to 90 degrees."""
    canvas = np.zeros((size, size), dtype=np.uint8)
    centre = rng.uniform(0.12, 0.88, 2) * size
    length, width = rng.uniform(0.25, 0.5) * size, rng.uniform(0.14, 0.2) * size
    angles = rng.uniform(0, 2 * np.pi) + rng.uniform(-1.6, 1.6) * np.linspace(-0.5, 0.5, 16)
    line = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=0) * length / 16
    points = np.round(line - line.mean(axis=0) + centre).astype(np.int32)
    cv2.polylines(canvas, [points], isClosed=False, color=1, thickness=round(width))
    return canvas.astype(bool)


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
