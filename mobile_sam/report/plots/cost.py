"""The picture of what quality costs."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mobile_sam.report.colours import styles
from mobile_sam.report.measured import Measured
from mobile_sam.report.pictures import Picture
from mobile_sam.report.words import prompt_label


def with_quality(measured: Measured, summary: pd.DataFrame) -> pd.DataFrame:
    """The table of costs with mean IoU: a row for each model that was measured in both.

    What is not in it and of the student's architecture, such as a stage, has the cost of `start`.
    Column total_ms is encoder and decoder together.
    """
    costs = measured.costs
    if costs is None:
        return pd.DataFrame()
    costs = costs.set_index("checkpoint")
    rows = []
    of_prompt = summary[summary["prompt"] == measured.first_prompt].set_index("checkpoint")["miou"]
    for what in measured.models:
        source = what.name
        if source not in costs.index and what.kind in {"stage", "best"}:
            source = "start"
        if source in costs.index and what.name in of_prompt.index:
            row = {"checkpoint": what.name, "miou": of_prompt[what.name]}
            rows.append(row | costs.loc[source].to_dict())
    table = pd.DataFrame(rows)
    if len(table):
        table["total_ms"] = table["encoder_ms"] + table["decoder_ms"]
    return table


def plot_cost(measured: Measured, table: pd.DataFrame) -> Picture:
    """Mean IoU over the time of an image with one prompt, a point for each model."""
    style = styles(measured.whats)
    label = prompt_label(measured.first_prompt)

    def panel(axes: Axes) -> None:
        for row in table.to_dict("records"):
            drawn = style[row["checkpoint"]]
            low = row["encoder_ms_low"] + row["decoder_ms_low"]
            high = row["encoder_ms_high"] + row["decoder_ms_high"]
            axes.plot([low, high], [row["miou"]] * 2, color=drawn.colour, linewidth=1)
            axes.plot(row["total_ms"], row["miou"], drawn.marker, color=drawn.colour, markersize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="milliseconds for an image and a prompt", ylabel=f"mean IoU by {label}")
        axes.margins(0.12)

    return Picture(
        "cost",
        "Mean IoU over the time of an image and a prompt",
        "Up and to the left is better. The line through a point goes from the 10th to the 90th "
        "percentile of its time.",
        (panel,),
        table,
        {name: style[name] for name in table["checkpoint"]},
    )
