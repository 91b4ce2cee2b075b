"""Figures of validation results."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mobile_sam.report.inputs.report_data import ReportData
from mobile_sam.report.labels import SIZE_RANGES, with_prompt
from mobile_sam.report.plots.figures import GREY, Panel, ReportFigure, Style, styles

_BINS = 20
_LINE = 1.7

PromptPanel = Callable[[Axes, str], None]
Draw = Callable[[Axes, pd.DataFrame, Style], None]


def main_prompts(report: ReportData) -> list[str]:
    """Return box and point, or the first two prompts if there are neither."""
    plain = [prompt for prompt in report.prompts if prompt in {"box", "point"}]
    return plain or report.prompts[:2]


def plot_results(report: ReportData, summary: pd.DataFrame) -> ReportFigure:
    """Plot the mean IoU of each checkpoint, one panel per prompt."""
    prompts, style = main_prompts(report), styles(report.checkpoints)
    table = summary[summary["prompt"].isin(prompts)]

    def panel(axes: Axes, prompt: str) -> None:
        values = table[table["prompt"] == prompt].set_index("checkpoint")["miou"]
        names = [name for name in report.names if name in values.index]
        for position, name in enumerate(names):
            axes.plot([0, values[name]], [position, position], color=GREY, linewidth=0.6)
            marker = "s" if name == report.main else "o"
            axes.plot(values[name], position, marker, color=style[name].colour, markersize=8)
            axes.annotate(
                f"{values[name]:.3f}",
                (values[name], position),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_yticks(range(len(names)), names)
        axes.set(xlim=(0, 1.12), ylim=(len(names) - 0.5, -0.5), xlabel="mean IoU")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_title(with_prompt(prompt))
        axes.grid(visible=False, axis="y")

    return ReportFigure(
        "results",
        "Mean IoU of all validated checkpoints, by prompt",
        "Further right is better. The square marks the final weights or the main checkpoint.",
        prompt_panels(panel, prompts),
        table,
        height=max(1.6, 0.8 + 0.27 * len(report.checkpoints)),
    )


def plot_histogram(report: ReportData) -> ReportFigure:
    """Plot histograms of IoU, one line per checkpoint, one panel per prompt."""
    edges = np.linspace(0, 1, _BINS + 1)
    frames = []
    for (name, prompt), values in _groups(report.objects, main_prompts(report)):
        counts, _ = np.histogram(values["iou"], edges)
        frames.append(
            pd.DataFrame(
                {"checkpoint": name, "prompt": prompt, "from": edges[:-1].round(9)}
                | {"to": edges[1:].round(9), "objects": counts}
            )
        )
    table = pd.concat(frames, ignore_index=True)

    def draw(axes: Axes, rows: pd.DataFrame, style: Style) -> None:
        axes.stairs(rows["objects"], edges, linewidth=_LINE, **style.line)
        axes.set(xlabel="IoU of an object", ylabel="objects", xlim=(0, 1))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    return _lines(
        report,
        table,
        draw,
        name="iou_histogram",
        alt="Histograms of IoU by prompt, one line per checkpoint",
        note="A peak on the right is good. A second peak on the left means that some objects are "
        "missed entirely, which a mean hides.",
    )


def plot_sizes(report: ReportData, sizes: pd.DataFrame) -> ReportFigure:
    """Plot mean IoU by COCO size, one line per checkpoint."""
    table = sizes[sizes["prompt"].isin(main_prompts(report))]
    positions = {size: position for position, size in enumerate(SIZE_RANGES)}

    def draw(axes: Axes, rows: pd.DataFrame, style: Style) -> None:
        x = [positions[str(size)] for size in rows["size"]]
        _line(axes, x, rows["miou"], style)
        axes.set_xticks(range(len(SIZE_RANGES)), list(SIZE_RANGES))
        axes.set(xlim=(-0.3, len(SIZE_RANGES) - 0.7), ylim=(0, 1), ylabel="mean IoU")

    return _lines(
        report,
        table,
        draw,
        name="sizes",
        alt="Mean IoU of small, medium and large objects",
        note="COCO's size ranges at the original resolution: small is below 32² pixels, medium "
        "below 96², large the rest.",
    )


def plot_thresholds(report: ReportData) -> ReportFigure:
    """Plot mean IoU by the threshold of logits; the grey line is the threshold in use."""
    table = report.sweeps

    def draw(axes: Axes, rows: pd.DataFrame, style: Style) -> None:
        axes.axvline(report.mask_threshold, color=GREY, linewidth=1)
        axes.plot(rows["threshold"], rows["miou"], linewidth=_LINE, **style.line)
        best = rows.iloc[int(rows["miou"].argmax())]
        axes.plot(best["threshold"], best["miou"], style.marker, color=style.colour)
        axes.set(xlabel="threshold of mask logits", ylabel="mean IoU")

    return _lines(
        report,
        table,
        draw,
        name="thresholds",
        alt="Mean IoU by the threshold of mask logits",
        note=f"The grey line is mask_threshold ({report.mask_threshold:g}), which all other "
        "results use; markers show the best threshold of each line.",
    )


def plot_calibration(report: ReportData, table: pd.DataFrame) -> ReportFigure:
    """Plot measured versus predicted IoU, one line per checkpoint."""

    def draw(axes: Axes, rows: pd.DataFrame, style: Style) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        _line(axes, rows["predicted_iou"], rows["iou"], style)
        axes.set(xlabel="predicted IoU", ylabel="measured IoU", xlim=(0, 1), ylim=(0, 1))

    return _lines(
        report,
        table,
        draw,
        name="calibration",
        alt="Measured versus predicted IoU",
        note="On the grey line, predicted and measured IoU agree; below it, the model "
        "overestimates its masks.",
    )


def _groups(objects: pd.DataFrame, prompts: Sequence[str]) -> list[Any]:
    selected = objects[objects["prompt"].isin(prompts)]
    return list(selected.groupby(["checkpoint", "prompt"], sort=False, observed=True))


def _line(axes: Axes, x: Sequence[float] | pd.Series, y: pd.Series, style: Style) -> None:
    axes.plot(x, y, marker=style.marker, markersize=4.5, linewidth=_LINE, **style.line)


def prompt_panels(panel: PromptPanel, prompts: Sequence[str]) -> tuple[Panel, ...]:
    """Return one panel per prompt."""

    def panel_of(prompt: str) -> Panel:
        return lambda axes: panel(axes, prompt)

    return tuple(panel_of(prompt) for prompt in prompts)


def _lines(
    report: ReportData, table: pd.DataFrame, draw: Draw, name: str, alt: str, note: str
) -> ReportFigure:
    """Return a figure with one panel per prompt of `table`; `draw` draws one checkpoint."""
    style = styles(report.checkpoints)
    prompts = [prompt for prompt in report.prompts if prompt in set(table["prompt"])]

    def panel(axes: Axes, prompt: str) -> None:
        axes.set_title(with_prompt(prompt))
        prompt_rows = table[table["prompt"] == prompt]
        for checkpoint in report.names:
            rows = prompt_rows[prompt_rows["checkpoint"] == checkpoint]
            if len(rows):
                draw(axes, rows, style[checkpoint])

    names = set(table["checkpoint"])
    key = {checkpoint: style[checkpoint] for checkpoint in report.names if checkpoint in names}
    return ReportFigure(name, alt, note, prompt_panels(panel, prompts), table, key)
