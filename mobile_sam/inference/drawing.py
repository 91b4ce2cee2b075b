"""Masks and prompts drawn over an image, at its own resolution."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.data.masks import Mask, largest_first
from mobile_sam.data.overlays import blended, coloured
from mobile_sam.inference.prompt import Prompt

MOST_MASKS = np.iinfo(np.uint16).max  # that a label map can number
_QUALITY = 90  # of JPEG
_WHITE, _GREEN, _RED = (255, 255, 255), (0, 158, 115), (213, 94, 0)
_BLACK = (0, 0, 0)


def overlay(
    image: NDArray[np.uint8], masks: Sequence[Mask], prompts: Sequence[Prompt] = ()
) -> NDArray[np.uint8]:
    """The image (H, W, 3) under its masks (H, W), each in a colour, and the prompts that asked.

    Boxes are white; points green on the thing and red beside it.
    """
    pixels = blended(image, coloured(masks, (image.shape[0], image.shape[1])))
    unit = max(1, round(max(image.shape[:2]) / 400))  # of lines, in pixels
    for prompt in prompts:
        _draw(pixels, prompt, unit)
    return pixels


def _draw(pixels: NDArray[np.uint8], prompt: Prompt, unit: int) -> None:
    if prompt.box is not None:
        x0, y0, x1, y1 = (round(place) for place in prompt.box)
        for colour, width in ((_BLACK, 3 * unit), (_WHITE, unit)):
            cv2.rectangle(pixels, (x0, y0), (x1, y1), colour, width)
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        place = round(x), round(y)
        cv2.circle(pixels, place, 5 * unit, _WHITE, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(pixels, place, 4 * unit, _GREEN if label else _RED, cv2.FILLED, cv2.LINE_AA)


def write_mask(target: Path | IO[bytes], mask: Mask) -> None:
    """A mask (H, W) as a PNG of 0 and 255."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(target, "PNG")


def write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Pixels (H, W, 3) as a JPEG."""
    Image.fromarray(pixels).save(path, "JPEG", quality=_QUALITY)


def write_label_map(target: Path | IO[bytes], masks: Sequence[Mask], size: tuple[int, int]) -> None:
    """Masks (H, W) as a PNG of 16 bits: the n-th is n, counted from 1, and what is none of them 0.

    Where masks overlap the smallest is on top, so that one within another is not lost.
    Raises ValueError for more than 65535 masks.
    """
    if len(masks) > MOST_MASKS:
        raise ValueError(f"{target}: {len(masks)} masks do not fit into 16 bits")
    labels = np.zeros(size, dtype=np.uint16)
    for place in largest_first(masks):
        labels[masks[place]] = place + 1
    Image.fromarray(labels).save(target, "PNG")
