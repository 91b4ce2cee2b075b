"""The pictures of what training and validation measured."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from mobile_sam.data.images import read_image
from mobile_sam.data.masks import Mask, decode
from mobile_sam.report.colours import COLOURS

mpl.use("Agg")

_SHADES = ("#f2f2f2", "#e4e4e4")
_LINES = ("-", "--", ":", "-.")  # when colours are used up
_THUMBNAIL = 256  # pixels of the longest side


def plot_epochs(epochs: pd.DataFrame, target: Path) -> None:
    """Training losses and validation IoU over the epochs of the run, stages shaded."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    losses, overlap = figure.subplots(2, 1, sharex=True)
    x = epochs["epoch"] + 1
    parts = ("loss", "focal", "dice", "iou", "distillation")
    for colour, name in zip(COLOURS, parts, strict=False):
        if name in epochs:
            losses.plot(x, epochs[name], "o-", color=colour, label=name, markersize=3)
    losses.set_yscale("log")
    losses.set_ylabel("training loss")
    names = {"val_box_iou": "box", "val_point_iou": "point"}
    for colour, (name, label) in zip(COLOURS, names.items(), strict=False):
        if name in epochs:
            overlap.plot(x, epochs[name], "o-", color=colour, label=label, markersize=3)
    overlap.set(xlabel="epoch", ylabel="validation IoU, model frame", ylim=(0, 1))
    overlap.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (losses, overlap):
        _shade_stages(axes, epochs)
        if axes.has_data():
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(target, dpi=130)


def _shade_stages(axes: Axes, epochs: pd.DataFrame) -> None:
    for number, (stage, rows) in enumerate(epochs.groupby("stage", sort=False)):
        start, end = rows["epoch"].min() + 0.5, rows["epoch"].max() + 1.5
        axes.axvspan(start, end, color=_SHADES[number % 2], zorder=0)
        axes.annotate(
            str(stage),
            ((start + end) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )


def plot_histogram(objects: pd.DataFrame, target: Path) -> None:
    """How many segments reach which IoU, by prompt, a line for each checkpoint."""
    prompts = list(objects["prompt"].unique())
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, len(prompts), sharey=True, squeeze=False)[0]
    edges = np.linspace(0, 1, 21)
    names = list(objects["checkpoint"].unique())
    for axes, prompt in zip(panels, prompts, strict=True):
        for number, name in enumerate(names):
            chosen = objects[(objects["checkpoint"] == name) & (objects["prompt"] == prompt)]
            if len(chosen):
                counts, _ = np.histogram(chosen["iou"], edges)
                colour, line = COLOURS[number % 8], _LINES[number // 8 % 4]
                axes.stairs(counts, edges, color=colour, linestyle=line, label=name, linewidth=1.6)
        axes.set(xlabel="IoU", title=f"by {prompt}")
    panels[0].set_ylabel("segments")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=130)


def plot_examples(objects: pd.DataFrame, count: int, target: Path) -> None:
    """Images from the worst to the best by the last stage: truth and what each checkpoint saw."""
    chosen = example_images(objects, count)
    names = [n for n in objects["checkpoint"].unique() if n != "box_filled"]
    columns = ["image", "ground truth", *names]
    figure = Figure(
        figsize=(1.9 * len(columns), 1.9 * max(1, len(chosen)) + 0.4), layout="constrained"
    )
    grid = figure.subplots(max(1, len(chosen)), len(columns), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    boxes = objects[objects["prompt"] == "box"]
    for row, image_id in zip(grid, chosen, strict=False):
        of_image = boxes[boxes["image_id"] == image_id]
        pixels, shown = _thumbnail(of_image)
        row[0].imshow(pixels)
        row[1].imshow(
            _overlay(pixels, [_small(m, shown) for m in _masks(of_image, "truth", names)])
        )
        for axes, name in zip(row[2:], names, strict=True):
            masks = _masks(of_image, "prediction", [name])
            axes.imshow(_overlay(pixels, [_small(m, shown) for m in masks]))
            mean = of_image.loc[of_image["checkpoint"] == name, "iou"].mean()
            axes.text(
                0.02,
                0.03,
                f"{mean:.2f}",
                transform=axes.transAxes,
                color="white",
                bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "linewidth": 0},
                fontsize=7,
            )
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title, fontsize=9)
    figure.savefig(target, dpi=120)


def example_images(objects: pd.DataFrame, count: int) -> list[str]:
    """Ids of `count` images, evenly spread from the worst to the best by the last stage."""
    names = [n for n in objects["checkpoint"].unique() if n != "box_filled"]
    stages = [n for n in names if not n.startswith("teacher")]
    last = objects[(objects["checkpoint"] == stages[-1]) & (objects["prompt"] == "box")]
    ranked = last.groupby("image_id")["iou"].mean().sort_values(kind="stable").index
    places = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    return [str(ranked[place]) for place in places] if count else []


def _thumbnail(rows: pd.DataFrame) -> tuple[np.ndarray, tuple[int, int]]:
    image = Image.fromarray(read_image(Path(rows["image_path"].iloc[0])))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.asarray(image), image.size


def _masks(rows: pd.DataFrame, column: str, checkpoints: list[str]) -> list[Mask]:
    chosen = rows[rows["checkpoint"] == checkpoints[0]]
    return [
        decode(code, (height, width))
        for code, height, width in zip(
            chosen[column], chosen["height"], chosen["width"], strict=True
        )
    ]


def _small(mask: Mask, size: tuple[int, int]) -> Mask:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _overlay(pixels: np.ndarray, masks: list[Mask]) -> np.ndarray:
    """The image with each mask tinted in a colour of its own."""
    tinted = pixels.astype(np.float64)
    for number, mask in enumerate(masks):
        colour = np.array(mpl.colors.to_rgb(COLOURS[number % 7])) * 255
        tinted[mask] = 0.45 * tinted[mask] + 0.55 * colour
    return tinted.astype(np.uint8)
