"""The gallery: which images are shown, and what each checkpoint saw in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.data.images import read_image
from mobile_sam.data.masks import Mask, decode
from mobile_sam.data.overlays import coloured, outlined
from mobile_sam.report.measured import Measured, What
from mobile_sam.report.reading import read_masks
from mobile_sam.report.tables import by_image
from mobile_sam.report.words import signed

_SIDE = 512  # pixels of the longest side
_LEAST_DROP = 0.005  # of an image's mean IoU, to be called worse


@dataclass(frozen=True)
class Layer:
    """Masks of one what as palette indices (H, W), see `overlays`; mean_iou: None for the truth."""

    name: str
    pixels: NDArray[np.uint8]
    mean_iou: float | None


@dataclass(frozen=True)
class Shot:
    """One image: a thumbnail (H, W, 3), and a layer for the truth and each what, in order.

    words: why it is shown. chosen: the layer that is seen first. outline: of the truth.
    """

    image_id: str
    words: str
    chosen: str
    thumbnail: NDArray[np.uint8]
    outline: NDArray[np.uint8]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Choice:
    """An image to show: why, and which what is seen first."""

    image_id: str
    words: str
    chosen: str


TRUTH = "ground truth"


def choose(measured: Measured) -> dict[str, list[Choice]]:
    """Images of each group: `best`, `median` and `worst` by the main what, and `worse`.

    With few images the first three share them, so that none is shown twice among them.
    """
    table = by_image(measured.objects, measured.first_prompt)
    if measured.examples == 0 or measured.main not in table:
        return {}
    ranked = table[measured.main].sort_values(ascending=False, kind="stable")
    share = min(measured.examples, -(-len(ranked) // 3))
    best, rest = ranked.iloc[:share], ranked.iloc[share:]
    worst = rest.iloc[::-1].iloc[:share]
    between = rest.iloc[: len(rest) - len(worst)]
    start = max(0, min((len(ranked) - share) // 2 - share, len(between) - share))
    groups = {"best": best, "median": between.iloc[start : start + share], "worst": worst}
    chosen = {
        name: [Choice(str(image), f"{value:.3f}", measured.main) for image, value in some.items()]
        for name, some in groups.items()
    }
    return chosen | {"worse": _worse(measured, table)}


def _worse(measured: Measured, table: pd.DataFrame) -> list[Choice]:
    """Images with the largest drop of their mean IoU in any step, each image once."""
    drops: list[tuple[float, str, str, str]] = []
    for what, before in measured.steps:
        if what in table and before in table:
            changes = (table[what] - table[before]).to_dict()
            drops += [(change, str(image), what, before) for image, change in changes.items()]
    found: dict[str, Choice] = {}
    for change, image, what, before in sorted(drop for drop in drops if drop[0] <= -_LEAST_DROP):
        if image not in found and len(found) < measured.examples:
            was, now = table[before][image], table[what][image]
            words = f"{before} {was:.3f} → {what} {now:.3f} ({signed(change)})"
            found[image] = Choice(image, words, what)
    return list(found.values())


def shots(measured: Measured, chosen: dict[str, list[Choice]]) -> dict[str, list[Shot]]:
    """The chosen images with their layers; of each table only their rows are read."""
    images = sorted({choice.image_id for some in chosen.values() for choice in some})
    if not images:
        return {name: [] for name in chosen}
    tables = {
        what.name: _by_image(read_masks(what.table, images, measured.first_prompt))
        for what in measured.models
    }
    made = {image: _layers(image, measured.models, tables) for image in images}
    return {
        name: [
            Shot(choice.image_id, choice.words, choice.chosen, *made[choice.image_id])
            for choice in some
        ]
        for name, some in chosen.items()
    }


def _by_image(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(image): some for image, some in rows.groupby("image_id")}


def _layers(
    image: str, models: Sequence[What], tables: dict[str, dict[str, pd.DataFrame]]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[Layer, ...]]:
    """Thumbnail, outline and layers of an image."""
    of_image = {what.name: tables[what.name].get(image) for what in models}
    rows = {name: table for name, table in of_image.items() if table is not None and len(table)}
    first = next(iter(rows.values()))
    thumbnail = _thumbnail(Path(first["image_path"].iloc[0]))
    size = thumbnail.shape[:2]
    truth = _masks(first, "truth", size)
    layers = [Layer(TRUTH, coloured(truth, size), None)]
    for name, table in rows.items():
        pixels = coloured(_masks(table, "prediction", size), size)
        layers.append(Layer(name, pixels, float(table["iou"].mean())))
    return thumbnail, outlined(truth, size), tuple(layers)


def _thumbnail(path: Path) -> NDArray[np.uint8]:
    image = Image.fromarray(read_image(path))
    scale = _SIDE / max(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(image)


def _masks(rows: pd.DataFrame, column: str, size: tuple[int, int]) -> list[Mask]:
    """Masks (H, W) of the thumbnail, in the order of segment ids."""
    rows = rows.sort_values("segment_id", kind="stable")
    masks = []
    for code, height, width in zip(rows[column], rows["height"], rows["width"], strict=True):
        mask = decode(code, (height, width))
        if mask.shape != size:
            small = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
            mask = np.asarray(small)
        masks.append(mask)
    return masks
