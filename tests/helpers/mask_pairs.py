"""Pairs of masks that measures are compared on: smooth, noisy, and at the limits."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
SIZES = [(1, 1), (1, 40), (33, 1), (2, 2), (17, 23), (64, 64), (120, 31), (60, 300), (181, 240)]


def blobs(size: tuple[int, int], rng: np.random.Generator) -> Mask:
    """Smooth shapes, some of which touch the border."""
    smooth = ndimage.gaussian_filter(rng.normal(size=size), max(1, min(size) / 10), mode="wrap")
    return smooth > np.quantile(smooth, rng.uniform(0.3, 0.95))


def shapes(size: tuple[int, int], rng: np.random.Generator) -> dict[str, Mask]:
    """Masks (H, W) by name."""
    height, width = size
    empty = np.zeros(size, dtype=bool)
    one, corner, border, small = empty.copy(), empty.copy(), empty.copy(), empty.copy()
    one[height // 2, width // 2] = True
    corner[-1, -1] = True
    border[: height // 2 + 1, : width // 3 + 1] = True
    small[height // 3 : height // 2, width // 2 : width // 2 + 5] = True
    return {
        "empty": empty,
        "full": ~empty,
        "one pixel": one,
        "corner": corner,
        "all but a pixel": ~one,
        "border": border,
        "small": small,
        "blobs": blobs(size, rng),
        "noise": rng.random(size) < 0.4,
        "sparse": rng.random(size) < 0.01,
    }


def pairs(size: tuple[int, int]) -> Iterator[tuple[str, Mask, Mask]]:
    """Each shape with each, and with itself a little moved; by the names of both."""
    rng = np.random.default_rng(size)
    first, second = shapes(size, rng), shapes(size, rng)
    for name, mask in first.items():
        for other, truth in second.items():
            yield f"{name} / {other}", mask, truth
        for shift in (1, 2, 5):
            yield f"{name} / moved by {shift}", mask, np.roll(mask, (shift, -shift), axis=(0, 1))
