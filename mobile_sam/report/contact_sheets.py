"""The gallery as PNGs beside the page: a row for each image, a column for each layer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.report.gallery import Layer, Shot
from mobile_sam.report.overlays import blended, coloured, outlined

_CELL, _GAP, _INCHES = 256, 8, 1.7  # pixels of a cell and between cells; inches of a cell


def write_sheet(shots: Sequence[Shot], target: Path, title: str) -> None:
    """Draw the shots with their layers, or a sentence where there is none."""
    if not shots:
        figure = Figure(figsize=(6, 1), layout="constrained")
        figure.text(0.5, 0.5, f"{title}: no image", ha="center", va="center")
        figure.savefig(target, dpi=130, metadata={"Software": None})
        return
    columns = list(dict.fromkeys(layer.name for shot in shots for layer in shot.layers))
    pitch = _CELL + _GAP
    canvas = np.full((pitch * len(shots), pitch * (len(columns) + 1), 3), 255, dtype=np.uint8)
    figure = Figure(figsize=(_INCHES * (len(columns) + 1), _INCHES * len(shots) + 0.5))
    axes = figure.add_axes((0, 0, 1, _INCHES * len(shots) / (_INCHES * len(shots) + 0.5)))
    axes.set_axis_off()
    for row, shot in enumerate(shots):
        by_name = {layer.name: layer for layer in shot.layers}
        cells = [shot.thumbnail, *(_cell(shot, by_name.get(name)) for name in columns)]
        for column, pixels in enumerate(cells):
            small = _fitted(pixels)
            top, left = row * pitch, column * pitch
            canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
        for column, name in enumerate(columns, start=1):
            layer = by_name.get(name)
            if layer is not None and layer.mean_iou is not None:
                axes.text(
                    column * pitch + 8,
                    row * pitch + 24,
                    f"{layer.mean_iou:.2f}",
                    color="white",
                    fontsize=7,
                    bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "linewidth": 0},
                )
    axes.imshow(canvas, interpolation="none", aspect="auto")
    for column, name in enumerate(["image", *columns]):
        place = (column + 0.5) / (len(columns) + 1)
        figure.text(place, 1 - 0.3 / figure.get_figheight(), name, ha="center", fontsize=8)
    figure.savefig(target, dpi=150, metadata={"Software": None})


def _cell(shot: Shot, layer: Layer | None) -> NDArray[np.uint8]:
    if layer is None:
        return shot.thumbnail
    size, truth = shot.thumbnail.shape[:2], shot.layers[0]
    layers = [coloured(layer.masks, size)]
    if layer is not truth:
        layers.append(outlined(truth.masks, size))
    return blended(shot.thumbnail, *layers)


def _fitted(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    scale = _CELL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
