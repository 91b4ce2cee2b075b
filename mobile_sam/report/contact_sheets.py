"""The gallery as PNGs beside the page: a row for each image, a column for each layer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.data.overlays import blended
from mobile_sam.report.gallery import Layer, Shot

# Pixels: of a cell, from one to the next, and of the headings. One of each is one of the PNG.
_CELL, _PITCH, _HEAD, _DPI = 240, 248, 36, 100


def write_sheet(shots: Sequence[Shot], target: Path, title: str) -> None:
    """Draw the shots with their layers, or a sentence where there is none."""
    if not shots:
        figure = Figure(figsize=(6, 1))
        figure.text(0.5, 0.5, f"{title}: no image", ha="center", va="center")
        figure.savefig(target, dpi=_DPI, metadata={"Software": None})
        return
    columns = list(dict.fromkeys(layer.name for shot in shots for layer in shot.layers))
    height, width = _PITCH * len(shots), _PITCH * (len(columns) + 1)
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    figure = Figure(figsize=(width / _DPI, (height + _HEAD) / _DPI), dpi=_DPI)
    for column, name in enumerate(["image", *columns]):
        _write(figure, (column + 0.5) * _PITCH, height + _HEAD / 2, name, ha="center", size=9)
    for row, shot in enumerate(shots):
        top = row * _PITCH
        _paste(canvas, shot.thumbnail, top, 0)
        for layer in shot.layers:
            left = (1 + columns.index(layer.name)) * _PITCH
            _paste(canvas, _with(shot, layer), top, left)
            if layer.mean_iou is not None:
                _write(figure, left + 8, height - top - 16, f"{layer.mean_iou:.2f}", boxed=True)
    figure.figimage(canvas, 0, 0, zorder=-1)
    figure.savefig(target, dpi=_DPI, metadata={"Software": None})


def _write(
    figure: Figure,
    x: float,
    y: float,
    words: str,
    ha: str = "left",
    size: int = 8,
    boxed: bool = False,
) -> None:
    """Words at a place in pixels from the lower left, white on black where they are boxed."""
    width, height = figure.get_size_inches() * _DPI
    box = {"facecolor": "black", "alpha": 0.6, "pad": 2, "linewidth": 0} if boxed else None
    colour = "white" if boxed else "black"
    text = figure.text(x / width, y / height, words, ha=ha, va="center", fontsize=size)
    text.set(color=colour, bbox=box)


def _paste(canvas: NDArray[np.uint8], pixels: NDArray[np.uint8], top: int, left: int) -> None:
    image = Image.fromarray(pixels)
    scale = _CELL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    canvas[top : top + height, left : left + width] = small


def _with(shot: Shot, layer: Layer) -> NDArray[np.uint8]:
    """The thumbnail under a layer, and under the outline of the truth where that is another."""
    layers = [layer.pixels] if layer is shot.layers[0] else [layer.pixels, shot.outline]
    return blended(shot.thumbnail, *layers)
