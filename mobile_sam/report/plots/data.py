"""Figure of the data set: its contents, and what was excluded."""

from functools import partial
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mobile_sam.data.index.summary import Summary, relative_size
from mobile_sam.data.index.table import SPLITS
from mobile_sam.data.overlays import COLOURS
from mobile_sam.report.plots.figures import ReportFigure, label_plainly, line_style

_BINS = 30
_MAX_BARS = 12


def plot_data(data: Summary) -> ReportFigure:
    """Plot objects per image, sizes of objects and images, classes, and excluded annotations."""
    panels = [_objects_per_image, _object_sizes, _image_sizes, _left_out]
    if data.used["class"].notna().any():
        panels.append(_classes)
    return ReportFigure(
        "data",
        "Objects per image, sizes of objects and images, classes, and excluded annotations",
        "Training and validation should have similar distributions. Larger circles: more images "
        "of that size.",
        tuple(partial(panel, data=data) for panel in panels),
        _counts(data),
        {split: line_style(number) for number, split in enumerate(SPLITS)},
    )


def _counts(data: Summary) -> pd.DataFrame:
    """Return the numbers of images and objects and their median sizes, by split and class."""
    used = data.used.assign(relative_size=relative_size(data.used))
    used["class"] = used["class"].astype(object).fillna("")
    used["split"] = used["split"].astype(str)
    table = used.groupby(["split", "class"], sort=True).agg(
        images=("image", "nunique"),
        segments=("area", "size"),
        median_area=("area", "median"),
        median_relative_size=("relative_size", "median"),
    )
    return table.reset_index()


def _objects_per_image(axes: Axes, data: Summary) -> None:
    counts = {split: data.objects_per_image(split) for split in SPLITS}
    most = max(values.max() for values in counts.values())
    step = max(1, -(-most // _BINS))
    _histograms(axes, counts, np.arange(0.5, most + step + 0.5, step))
    axes.set(xlabel="objects per image", ylabel="images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _object_sizes(axes: Axes, data: Summary) -> None:
    used = data.used
    size = relative_size(used)
    edges = np.geomspace(size.min() * 0.999, max(size.max(), size.min() * 1.5) * 1.001, _BINS + 1)
    _histograms(axes, {split: size[used["split"] == split] for split in SPLITS}, edges)
    axes.set_xscale("log")
    label_plainly(axes.xaxis)
    axes.set(xlabel="√area of an object / longest side of its image", ylabel="objects")
    axes.xaxis.label.set_fontsize(8)


def _image_sizes(axes: Axes, data: Summary) -> None:
    for number, split in enumerate(SPLITS):
        sizes = data.images(split).groupby(["width", "height"], observed=True).size().reset_index()
        axes.scatter(
            sizes["width"],
            sizes["height"],
            s=20 + 180 * sizes[0] / sizes[0].max(),
            color=COLOURS[number],
            alpha=0.5,
            linewidths=0,
            rasterized=True,
        )
    most = 1.08 * data.used[["width", "height"]].max().max()
    axes.set(xlabel="image width, pixels", ylabel="image height, pixels")
    axes.set(xlim=(0, most), ylim=(0, most))


def _left_out(axes: Axes, data: Summary) -> None:
    reasons = data.left_out["left_out"].value_counts()
    counts = {str(reason): int(n) for reason, n in reasons.items() if n}
    if data.problems:
        counts["broken files or annotations"] = len(data.problems)
    axes.set_title("excluded", fontsize=10)
    if counts:
        _bars(axes, counts)
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)


def _classes(axes: Axes, data: Summary) -> None:
    counts = data.used["class"].value_counts().head(_MAX_BARS)
    _bars(axes, {str(name): int(n) for name, n in counts.items() if n})
    axes.set_title("objects per class, most frequent first", fontsize=10)


def _bars(axes: Axes, counts: dict[str, int]) -> None:
    bars = axes.barh([fill(name, 16) for name in counts], list(counts.values()), color=COLOURS[0])
    axes.bar_label(bars, padding=3, fontsize=8)
    axes.margins(x=0.15)
    axes.set_ylim(max(len(counts), 5) - 0.5, -0.5)
    axes.tick_params(labelsize=8)


def _histograms(axes: Axes, values: dict[str, pd.Series], edges: np.ndarray) -> None:
    for number, series in enumerate(values.values()):
        counts, _ = np.histogram(series, edges)
        axes.stairs(counts, edges, color=COLOURS[number], linewidth=1.6)
