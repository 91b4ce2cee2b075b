"""Figure of training: losses and IoU by epoch, with shaded stages."""

from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mobile_sam.report.plots.figures import (
    GREY,
    Panel,
    ReportFigure,
    Style,
    label_plainly,
    line_style,
)

_SHADES = (0.06, 0.16)
_OVERLAPS = {
    "val_box_iou": "IoU, box",
    "val_point_iou": "IoU, point",
    "val_clicks_iou": "IoU after clicks",
}
_LOSSES = ("loss", "focal", "dice", "iou", "distillation")


def plot_epochs(epochs: pd.DataFrame) -> ReportFigure:
    """Plot training losses and validation IoU by epoch, two panels per run, stages shaded."""
    losses = {name: name for name in _LOSSES if name in epochs}
    overlaps = {name: label for name, label in _OVERLAPS.items() if name in epochs}
    labels = [*losses.values(), *overlaps.values()]
    key = {label: line_style(number) for number, label in enumerate(labels)}
    panels: list[Panel] = []
    several = epochs["run"].nunique() > 1
    for run, rows in epochs.groupby("run", sort=False):
        title = f"{run}: " if several else ""
        panels.append(
            partial(_panel, rows=rows, lines=losses, key=key, title=f"{title}training loss")
        )
        if overlaps:
            text = f"{title}validation IoU, model frame"
            panels.append(partial(_panel, rows=rows, lines=overlaps, key=key, title=text))
    return ReportFigure(
        "epochs",
        "Training losses and validation IoU by epoch, stages shaded",
        "Shading separates stages. Loss weights may differ between stages. The IoU is that of the "
        "images validated after each epoch (val_images), in the model frame, and differs from the "
        "tables.",
        tuple(panels),
        epochs,
        key,
    )


def _panel(
    axes: Axes, rows: pd.DataFrame, lines: dict[str, str], key: dict[str, Style], title: str
) -> None:
    x = rows["epoch"] + 1
    for name, label in lines.items():
        style = key[label]
        axes.plot(x, rows[name], marker=style.marker, markersize=3, linewidth=1.6, **style.line)
    if set(lines) <= set(_OVERLAPS):
        axes.set_ylim(0, 1)
    elif (rows[list(lines)] > 0).any(axis=None):
        axes.set_yscale("log")
        label_plainly(axes.yaxis)
    axes.set_title(title, pad=18)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _shade_stages(axes, rows)


def _shade_stages(axes: Axes, rows: pd.DataFrame) -> None:
    stages = list(rows.groupby("stage", sort=False))
    for number, (stage, part) in enumerate(stages):
        start, end = part["epoch"].min() + 0.5, part["epoch"].max() + 1.5
        axes.axvspan(start, end, color=GREY, alpha=_SHADES[number % 2], zorder=0, linewidth=0)
        axes.annotate(
            _short(str(stage), len(stages)),
            ((start + end) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8 if len(stages) < 4 else 7,
        )
    axes.set_xlim(rows["epoch"].min() + 0.5, rows["epoch"].max() + 1.5)


def _short(stage: str, count: int) -> str:
    """Return only the number of the stage where names would overlap."""
    return stage if count <= 3 else stage.partition("_")[0]
