"""Gallery of images with masks: a section of the page, and PNGs beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.config.sections import ImageOptions, Tile
from mobile_sam.data.images import read_image
from mobile_sam.data.masks import EncodedMasks, decode, encode
from mobile_sam.data.overlays import blend_layers, colour_layer, layer_uri, outline_layer, photo_uri
from mobile_sam.data.tiles import parse_tile_id
from mobile_sam.data.windows import DecodedImages, read_window
from mobile_sam.evaluation.tables import read_metadata
from mobile_sam.report.inputs.reading import read_masks
from mobile_sam.report.inputs.report_data import Checkpoint, ReportData
from mobile_sam.report.labels import format_signed, with_prompt
from mobile_sam.report.plots.fonts import draw_with_fonts
from mobile_sam.report.sections.blocks import Gallery, GalleryItem, Section
from mobile_sam.report.tables import by_image

_SIDE = 512  # longest side in pixels
_LEAST_DROP = 0.005  # smallest fall of an image's mean IoU that counts


@dataclass(frozen=True)
class Layer:
    """Masks of a checkpoint as palette indices (H, W), see `overlays`; or of the truth."""

    name: str
    pixels: NDArray[np.uint8]
    mean_iou: float | None


@dataclass(frozen=True)
class GalleryImage:
    """Image with its layers: a thumbnail (H, W, 3), the ground truth and each checkpoint, in order.

    caption: reason to show it. initial_layer: the layer that is shown first. outline: of the ground
    truth.
    """

    image_id: str
    caption: str
    initial_layer: str
    thumbnail: NDArray[np.uint8]
    outline: NDArray[np.uint8]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class SelectedImage:
    """Image to show: the reason, and the checkpoint that is shown first."""

    image_id: str
    caption: str
    initial_layer: str


TRUTH = "ground truth"


def select_images(report: ReportData) -> dict[str, list[SelectedImage]]:
    """Select images for each group: `best`, `median`, `worst` for the main checkpoint, and `worse`.

    With few images, the first three groups share them without repetition.
    """
    table = by_image(report.objects, report.first_prompt)
    if report.examples == 0 or report.main not in table:
        return {}
    ranked = table[report.main].sort_values(ascending=False, kind="stable")
    share = min(report.examples, -(-len(ranked) // 3))
    best, rest = ranked.iloc[:share], ranked.iloc[share:]
    worst = rest.iloc[::-1].iloc[:share]
    between = rest.iloc[: len(rest) - len(worst)]
    start = max(0, min((len(ranked) - share) // 2 - share, len(between) - share))
    groups = {"best": best, "median": between.iloc[start : start + share], "worst": worst}
    selection = {
        name: [
            SelectedImage(str(image), f"{value:.3f}", report.main) for image, value in group.items()
        ]
        for name, group in groups.items()
    }
    return selection | {"worse": _degraded(report, table)}


def _degraded(report: ReportData, table: pd.DataFrame) -> list[SelectedImage]:
    """Return the images whose mean IoU falls most in any step, each image once."""
    drops: list[tuple[float, str, str, str]] = []
    for checkpoint, before in report.steps:
        if checkpoint in table and before in table:
            changes = (table[checkpoint] - table[before]).to_dict()
            drops += [(change, str(image), checkpoint, before) for image, change in changes.items()]
    selected: dict[str, SelectedImage] = {}
    for change, image, checkpoint, before in sorted(
        drop for drop in drops if drop[0] <= -_LEAST_DROP
    ):
        if image not in selected and len(selected) < report.examples:
            was, now = table[before][image], table[checkpoint][image]
            text = f"{before} {was:.3f} → {checkpoint} {now:.3f} ({format_signed(change)})"
            selected[image] = SelectedImage(image, text, checkpoint)
    return list(selected.values())


def load_images(
    report: ReportData, selection: dict[str, list[SelectedImage]]
) -> dict[str, list[GalleryImage]]:
    """Load the selected images with their layers; reads only their rows of each table."""
    images = sorted({selected.image_id for group in selection.values() for selected in group})
    if not images:
        return {name: [] for name in selection}
    tables = {
        checkpoint.name: _by_image(read_masks(checkpoint.table, images, report.first_prompt))
        for checkpoint in report.models
    }
    stored = read_metadata(report.models[0].table)
    options = ImageOptions.model_validate(stored.get("images", {}))
    with TemporaryDirectory() as decoded:
        # Images of which tiles are shown are decoded once, too.
        cache = DecodedImages(Path(decoded), Tile.model_validate(stored.get("tile", {})).cache_gb)
        tiles = cache if "tile" in stored else None
        contents = {name: _layers(name, report.models, tables, options, tiles) for name in images}
    return {
        name: [
            GalleryImage(
                selected.image_id,
                selected.caption,
                selected.initial_layer,
                *contents[selected.image_id],
            )
            for selected in group
        ]
        for name, group in selection.items()
    }


def _by_image(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(image): group for image, group in rows.groupby("image_id")}


def _layers(
    image: str,
    models: Sequence[Checkpoint],
    tables: dict[str, dict[str, pd.DataFrame]],
    options: ImageOptions,
    tiles: DecodedImages | None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[Layer, ...]]:
    """Return thumbnail, outline and layers of an image. tiles: None if it cannot be a tile."""
    image_tables = {checkpoint.name: tables[checkpoint.name].get(image) for checkpoint in models}
    rows = {name: table for name, table in image_tables.items() if table is not None and len(table)}
    first = next(iter(rows.values()))
    path = Path(first["image_path"].iloc[0])
    height, width = (int(first[side].iloc[0]) for side in ("height", "width"))
    window = None if tiles is None else parse_tile_id(image, (height, width))
    if window is None or tiles is None:
        pixels = read_image(path, options)
    else:
        pixels = read_window(path, options, window, tiles)
    thumbnail = _thumbnail(pixels)
    size = thumbnail.shape[:2]
    truth = _masks(first, "truth", size)
    layers = [Layer(TRUTH, colour_layer(truth), None)]
    for name, table in rows.items():
        pixels = colour_layer(_masks(table, "prediction", size))
        layers.append(Layer(name, pixels, float(table["iou"].mean())))
    return thumbnail, outline_layer(truth, size), tuple(layers)


def _thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    scale = _SIDE / max(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(image)


def _masks(rows: pd.DataFrame, column: str, size: tuple[int, int]) -> EncodedMasks:
    """Return masks in the size of the thumbnail, (H, W), in the order of segment ids."""
    rows = rows.sort_values("segment_id", kind="stable")
    codes = []
    for code, height, width in zip(rows[column], rows["height"], rows["width"], strict=True):
        mask = decode(code, (height, width))
        if mask.shape != size:
            small = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
            mask = np.asarray(small)
        codes.append(encode(mask))
    return EncodedMasks(codes, size)


_NOTE = (
    "Each object has the same colour in all layers; the white line is the outline of the ground "
    "truth. Numbers are the mean IoU of the image with {prompt}."
)


def gallery(report: ReportData, directory: Path) -> Section | None:
    """Return the gallery, or None if it is disabled.

    Writes `gallery_<group>.png` for each group.
    """
    selection = select_images(report)
    if not selection:
        return None
    titles = {
        "best": f"Best images of {report.main}",
        "median": f"Median images of {report.main}",
        "worst": f"Worst images of {report.main}",
        "worse": report.worse,
    }
    groups_of_images = load_images(report, selection)
    groups = []
    for name, group in groups_of_images.items():
        if name == "worse" and not report.steps:
            continue
        write_sheet(group, directory / f"gallery_{name}.png", titles[name])
        note = "" if group else "No such image."
        groups.append((titles[name], note, [_gallery_item(shot) for shot in group]))
    # First the image alone, then all layers.
    names = [
        "image",
        *dict.fromkeys(
            layer.name
            for group in groups_of_images.values()
            for shot in group
            for layer in shot.layers
        ),
    ]
    order = {name: place for place, name in enumerate(["image", "ground truth", *report.names])}
    names.sort(key=lambda name: order[name])
    note = _NOTE.format(prompt=with_prompt(report.first_prompt))
    return Section("gallery", "Gallery", note, [Gallery(names, groups)])


def _gallery_item(shot: GalleryImage) -> GalleryItem:
    height, width = shot.thumbnail.shape[:2]
    cells: list[tuple[str, str | None, str]] = [("image", None, "")]
    for layer in shot.layers:
        mean = "" if layer.mean_iou is None else f"{layer.mean_iou:.2f}"
        cells.append((layer.name, layer_uri(layer.pixels), mean))
    return GalleryItem(
        title=shot.image_id,
        caption=shot.caption,
        width=width,
        height=height,
        photo=photo_uri(shot.thumbnail),
        outline=layer_uri(shot.outline),
        cells=cells,
        initial_layer=shot.initial_layer,
    )


# Pixels of the PNG: size of a cell, distance between cells, height of the headings.
_CELL, _PITCH, _HEAD, _DPI = 240, 248, 36, 100


def write_sheet(shots: Sequence[GalleryImage], target: Path, title: str) -> None:
    """Draw the images with their layers, or a sentence if there is none."""
    draw_with_fonts(lambda: _draw(shots, target, title), target)


def _draw(shots: Sequence[GalleryImage], target: Path, title: str) -> None:
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
        _write_text(figure, (column + 0.5) * _PITCH, height + _HEAD / 2, name, ha="center", size=9)
    for row, shot in enumerate(shots):
        top = row * _PITCH
        _paste(canvas, shot.thumbnail, top, 0)
        for layer in shot.layers:
            left = (1 + columns.index(layer.name)) * _PITCH
            _paste(canvas, _overlay(shot, layer), top, left)
            if layer.mean_iou is not None:
                _write_text(
                    figure, left + 8, height - top - 16, f"{layer.mean_iou:.2f}", boxed=True
                )
    figure.figimage(canvas, 0, 0, zorder=-1)
    figure.savefig(target, dpi=_DPI, metadata={"Software": None})


def _write_text(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    ha: str = "left",
    size: int = 8,
    boxed: bool = False,
) -> None:
    """Write text at a position in pixels from the lower left; boxed: white on black."""
    width, height = figure.get_size_inches() * _DPI
    box = {"facecolor": "black", "alpha": 0.6, "pad": 2, "linewidth": 0} if boxed else None
    colour = "white" if boxed else "black"
    artist = figure.text(x / width, y / height, text, ha=ha, va="center", fontsize=size)
    artist.set(color=colour, bbox=box)


def _paste(canvas: NDArray[np.uint8], pixels: NDArray[np.uint8], top: int, left: int) -> None:
    image = Image.fromarray(pixels)
    scale = _CELL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    canvas[top : top + height, left : left + width] = small


def _overlay(shot: GalleryImage, layer: Layer) -> NDArray[np.uint8]:
    """Return the thumbnail with a layer and, unless the layer is the ground truth, its outline."""
    layers = [layer.pixels] if layer is shot.layers[0] else [layer.pixels, shot.outline]
    return blend_layers(shot.thumbnail, *layers)
