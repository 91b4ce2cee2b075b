"""The pictures of what validation measured."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mobile_sam.report.colours import GREY, Style, styles
from mobile_sam.report.measured import Measured
from mobile_sam.report.pictures import Panel, Picture
from mobile_sam.report.words import SIZES, prompt_label

_BINS = 20
_LINE = 1.7

PromptPanel = Callable[[Axes, str], None]
Draw = Callable[[Axes, pd.DataFrame, Style], None]


def plain_prompts(measured: Measured) -> list[str]:
    """Box and point, which everybody knows, or the first prompts there are."""
    plain = [prompt for prompt in measured.prompts if prompt in {"box", "point"}]
    return plain or measured.prompts[:2]


def plot_results(measured: Measured, summary: pd.DataFrame) -> Picture:
    """A point for the mean IoU of each what, a panel for each prompt."""
    prompts, style = plain_prompts(measured), styles(measured.whats)
    table = summary[summary["prompt"].isin(prompts)]

    def panel(axes: Axes, prompt: str) -> None:
        values = table[table["prompt"] == prompt].set_index("checkpoint")["miou"]
        names = [name for name in measured.names if name in values.index]
        for place, name in enumerate(names):
            axes.plot([0, values[name]], [place, place], color=GREY, linewidth=0.6)
            marker = "s" if name == measured.main else "o"
            axes.plot(values[name], place, marker, color=style[name].colour, markersize=8)
            axes.annotate(
                f"{values[name]:.3f}",
                (values[name], place),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_yticks(range(len(names)), names)
        axes.set(xlim=(0, 1.12), ylim=(len(names) - 0.5, -0.5), xlabel="mean IoU")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_title(f"by {prompt_label(prompt)}")
        axes.grid(visible=False, axis="y")

    return Picture(
        "results",
        "Mean IoU of everything that was validated, by prompt",
        "Further right is better. The square is what the page is about.",
        each(panel, prompts),
        table,
        height=max(1.6, 0.8 + 0.27 * len(measured.whats)),
    )


def plot_histogram(measured: Measured) -> Picture:
    """How many segments reach which IoU, a line for each what, a panel for each prompt."""
    edges = np.linspace(0, 1, _BINS + 1)
    frames = []
    for (name, prompt), values in _groups(measured.objects, plain_prompts(measured)):
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
        axes.set(xlabel="IoU of a segment", ylabel="segments", xlim=(0, 1))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    return _lines(
        measured,
        table,
        draw,
        name="iou_histogram",
        alt="Histograms of IoU by prompt, a line for each checkpoint",
        note="Good is a peak at the right. A second one at the left is what a mean hides: segments "
        "that are missed altogether.",
    )


def plot_sizes(measured: Measured, sizes: pd.DataFrame) -> Picture:
    """Mean IoU by COCO's sizes, a line for each what."""
    table = sizes[sizes["prompt"].isin(plain_prompts(measured))]
    places = {size: place for place, size in enumerate(SIZES)}

    def draw(axes: Axes, rows: pd.DataFrame, style: Style) -> None:
        x = [places[str(size)] for size in rows["size"]]
        _line(axes, x, rows["miou"], style)
        axes.set_xticks(range(len(SIZES)), list(SIZES))
        axes.set(xlim=(-0.3, len(SIZES) - 0.7), ylim=(0, 1), ylabel="mean IoU")

    return _lines(
        measured,
        table,
        draw,
        name="sizes",
        alt="Mean IoU of small, medium and large segments",
        note="Small is below 32² pixels, medium below 96², large the rest, as COCO counts, at the "
        "image's own resolution.",
    )


def plot_thresholds(measured: Measured) -> Picture:
    """Mean IoU by the threshold of logits; the one in use is the grey line."""
    table = measured.sweeps

    def draw(axes: Axes, rows: pd.DataFrame, style: Style) -> None:
        axes.axvline(measured.mask_threshold, color=GREY, linewidth=1)
        axes.plot(rows["threshold"], rows["miou"], linewidth=_LINE, **style.line)
        best = rows.iloc[int(rows["miou"].argmax())]
        axes.plot(best["threshold"], best["miou"], style.marker, color=style.colour)
        axes.set(xlabel="threshold of mask logits", ylabel="mean IoU")

    return _lines(
        measured,
        table,
        draw,
        name="thresholds",
        alt="Mean IoU over the threshold of mask logits",
        note=f"The grey line is mask_threshold ({measured.mask_threshold:g}), by which all other "
        "numbers were measured; the marker is each line's best.",
    )


def plot_calibration(measured: Measured, table: pd.DataFrame) -> Picture:
    """Measured over predicted IoU, a line for each what."""

    def draw(axes: Axes, rows: pd.DataFrame, style: Style) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        _line(axes, rows["predicted_iou"], rows["iou"], style)
        axes.set(xlabel="predicted IoU", ylabel="measured IoU", xlim=(0, 1), ylim=(0, 1))

    return _lines(
        measured,
        table,
        draw,
        name="calibration",
        alt="Measured over predicted IoU",
        note="On the grey line the model knows how good its mask is; below it, it promises too "
        "much.",
    )


def plot_clicks(measured: Measured, summary: pd.DataFrame) -> Picture:
    """Mean IoU after 1, 3 and 5 clicks, a line for each what."""
    first = "point_chosen_of_3" if "point_chosen_of_3" in measured.prompts else "point"
    counts = {first: 1, "clicks_3": 3, "clicks_5": 5}
    table = summary[summary["prompt"].isin(counts)].copy()
    table["clicks"] = table["prompt"].map(counts)
    table["prompt"] = "clicks_5"

    def draw(axes: Axes, rows: pd.DataFrame, style: Style) -> None:
        _line(axes, rows["clicks"], rows["miou"], style)
        axes.set_xticks([1, 3, 5])
        axes.set(xlabel="clicks", ylabel="mean IoU", xlim=(0.6, 5.4), title="")

    return _lines(
        measured,
        table[["checkpoint", "prompt", "clicks", "miou"]],
        draw,
        name="clicks",
        alt="Mean IoU after one, three and five clicks",
        note="Each click after the first lies deepest in the largest error.",
    )


def _groups(objects: pd.DataFrame, prompts: Sequence[str]) -> list:
    chosen = objects[objects["prompt"].isin(prompts)]
    return list(chosen.groupby(["checkpoint", "prompt"], sort=False, observed=True))


def _line(axes: Axes, x: Sequence[float] | pd.Series, y: pd.Series, style: Style) -> None:
    axes.plot(x, y, marker=style.marker, markersize=4.5, linewidth=_LINE, **style.line)


def each(panel: PromptPanel, prompts: Sequence[str]) -> tuple[Panel, ...]:
    """A panel for each prompt."""

    def of(prompt: str) -> Panel:
        return lambda axes: panel(axes, prompt)

    return tuple(of(prompt) for prompt in prompts)


def _lines(
    measured: Measured, table: pd.DataFrame, draw: Draw, name: str, alt: str, note: str
) -> Picture:
    """A picture of a panel for each prompt of `table`, where `draw` draws each what's rows."""
    style = styles(measured.whats)
    prompts = [prompt for prompt in measured.prompts if prompt in set(table["prompt"])]

    def panel(axes: Axes, prompt: str) -> None:
        axes.set_title(f"by {prompt_label(prompt)}")
        of_prompt = table[table["prompt"] == prompt]
        for what in measured.names:
            rows = of_prompt[of_prompt["checkpoint"] == what]
            if len(rows):
                draw(axes, rows, style[what])

    drawn = set(table["checkpoint"])
    key = {what: style[what] for what in measured.names if what in drawn}
    return Picture(name, alt, note, each(panel, prompts), table, key)
