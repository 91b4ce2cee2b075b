"""Mask overlays for thumbnails: a transparent tint and an outline in the colour of each object."""

import base64
import io
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.data.masks import EncodedMasks, Mask

# Palette of Okabe and Ito, safe for colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")

_TINT, _EDGE = 0.4, 1.0  # opacities
_JPEG_QUALITY = 70
_ROWS_PER_BLOCK = 256  # rows that are blended at a time
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_RGB = [tuple(bytes.fromhex(colour[1:])) for colour in COLOURS]
# Entries of the palette: nothing, a tint of each colour, an edge of each, a line and its shadow.
_LINE, _SHADOW = 2 * len(_RGB) + 1, 2 * len(_RGB) + 2
_PALETTE = [_BLACK, *_RGB, *_RGB, _WHITE, _BLACK]
_OPACITY = [0.0, *[_TINT] * len(_RGB), *[_EDGE] * len(_RGB), 1.0, 0.55]


def colour_layer(masks: EncodedMasks) -> NDArray[np.uint8]:
    """Return palette indices (H, W) of masks (H, W), with small masks on top.

    The index of a mask sets its colour, so that an object has the same colour in every layer.
    """
    layer = np.zeros(masks.size, dtype=np.uint8)
    for place, window, mask in masks.largest_first():
        colour = place % len(_RGB)
        layer[window][mask] = 1 + colour
        layer[window][_edge(mask)] = 1 + len(_RGB) + colour
    return layer


def outline_layer(masks: Iterable[Mask], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return palette indices (H, W) of white outlines with a dark shadow."""
    layer = np.zeros(size, dtype=np.uint8)
    lines = np.zeros(size, dtype=bool)
    for mask in masks:
        lines |= _edge(mask)
    layer[cv2.dilate(lines.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)] = _SHADOW
    layer[lines] = _LINE
    return layer


def blend_layers(thumbnail: NDArray[np.uint8], *layers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blend a thumbnail (H, W, 3) with layers of palette indices (H, W)."""
    palette, opacity = np.array(_PALETTE, dtype=np.float32), np.array(_OPACITY, dtype=np.float32)
    blended = np.empty_like(thumbnail)
    for start in range(0, len(thumbnail), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        pixels = thumbnail[rows].astype(np.float32)
        for layer in layers:
            alpha = opacity[layer[rows]][..., None]
            pixels = (1 - alpha) * pixels + alpha * palette[layer[rows]]
        blended[rows] = pixels.round().astype(np.uint8)
    return blended


def layer_uri(layer: NDArray[np.uint8]) -> str:
    """Return a layer of palette indices as a data URI of a PNG with transparency."""
    image = Image.fromarray(layer, mode="P")
    image.putpalette([channel for colour in _PALETTE for channel in colour])
    buffer = io.BytesIO()
    transparency = bytes(round(255 * alpha) for alpha in _OPACITY)
    image.save(buffer, "PNG", optimize=True, transparency=transparency, bits=5)
    return _uri("image/png", buffer)


def photo_uri(pixels: NDArray[np.uint8]) -> str:
    """Return pixels (H, W, 3) as a data URI of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True, progressive=True
    )
    return _uri("image/jpeg", buffer)


def _edge(mask: Mask) -> Mask:
    """Return the pixels of the mask that touch the background or the border of the image."""
    padded = np.pad(mask, 1).astype(np.uint8)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1].astype(bool)
    return mask & ~inner


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
