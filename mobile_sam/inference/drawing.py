"""Overlays of masks and prompts on an image, at its own resolution, and images of masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.data.masks import EncodedMasks, Mask
from mobile_sam.data.overlays import blend_layers, colour_layer
from mobile_sam.inference.prompt import Prompt

MAX_LABELS = np.iinfo(np.uint16).max  # of a label map
_JPEG_QUALITY = 90
_WHITE, _GREEN, _RED = (255, 255, 255), (0, 158, 115), (213, 94, 0)
_BLACK = (0, 0, 0)


def overlay(
    image: NDArray[np.uint8], masks: EncodedMasks, prompts: Sequence[Prompt] = ()
) -> NDArray[np.uint8]:
    """Draw masks (H, W), each in its own colour, and prompts over an image (H, W, 3).

    Boxes are white, foreground points green, background points red.
    """
    pixels = blend_layers(image, colour_layer(masks))
    unit = max(1, round(max(image.shape[:2]) / 400))  # width of a line in pixels
    for prompt in prompts:
        _draw(pixels, prompt, unit)
    return pixels


def _draw(pixels: NDArray[np.uint8], prompt: Prompt, unit: int) -> None:
    if prompt.box is not None:
        x0, y0, x1, y1 = (round(edge) for edge in prompt.box)
        for colour, width in ((_BLACK, 3 * unit), (_WHITE, unit)):
            cv2.rectangle(pixels, (x0, y0), (x1, y1), colour, width)
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        centre = round(x), round(y)
        cv2.circle(pixels, centre, 5 * unit, _WHITE, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(pixels, centre, 4 * unit, _GREEN if label else _RED, cv2.FILLED, cv2.LINE_AA)


def write_mask(target: Path | IO[bytes], mask: Mask) -> None:
    """Write a mask (H, W) as a PNG of 0 and 255."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(target, "PNG")


def write_jpeg(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels (H, W, 3) as a JPEG."""
    Image.fromarray(pixels).save(path, "JPEG", quality=_JPEG_QUALITY)


def write_label_map(target: Path | IO[bytes], masks: EncodedMasks) -> None:
    """Write masks (H, W) as a 16-bit PNG: the n-th mask has the label n, the background 0.

    Smaller masks are drawn over larger ones, so that a mask within another is not lost.
    Raises ValueError for more than 65535 masks.
    """
    if len(masks) > MAX_LABELS:
        raise ValueError(f"{target}: {len(masks)} masks do not fit into 16 bits")
    labels = np.zeros(masks.size, dtype=np.uint16)
    for i, window, mask in masks.largest_first():
        labels[window][mask] = i + 1

    Image.fromarray(labels).save(target, "PNG")
