"""Figure of accuracy versus latency."""

import pandas as pd
from matplotlib.axes import Axes

from mobile_sam.report.inputs.report_data import ReportData
from mobile_sam.report.labels import with_prompt
from mobile_sam.report.plots.figures import ReportFigure, label_plainly, styles


def cost_table(report: ReportData, summary: pd.DataFrame) -> pd.DataFrame:
    """Return the table of costs with mean IoU: one row per model that has both.

    A stage that is not in the table of costs has the architecture of the student, and so the cost
    of `start`. Column total_ms is encoder plus decoder.
    """
    costs = report.costs
    if costs is None:
        return pd.DataFrame()
    costs = costs.set_index("checkpoint")
    rows = []
    mious = summary[summary["prompt"] == report.first_prompt].set_index("checkpoint")["miou"]
    for checkpoint in report.models:
        source = checkpoint.name
        if source not in costs.index and checkpoint.kind in {"stage", "best"}:
            source = "start"
        if source in costs.index and checkpoint.name in mious.index:
            row = {"checkpoint": checkpoint.name, "miou": mious[checkpoint.name]}
            rows.append(row | costs.loc[source].to_dict())
    table = pd.DataFrame(rows)
    if len(table):
        table["total_ms"] = table["encoder_ms"] + table["decoder_ms"]
    return table


def plot_cost(report: ReportData, table: pd.DataFrame) -> ReportFigure:
    """Plot mean IoU versus the latency of one image with one prompt, a point per model."""
    style = styles(report.checkpoints)
    label = with_prompt(report.first_prompt)

    def panel(axes: Axes) -> None:
        for row in table.to_dict("records"):
            line = style[row["checkpoint"]]
            low = row["encoder_ms_low"] + row["decoder_ms_low"]
            high = row["encoder_ms_high"] + row["decoder_ms_high"]
            axes.plot([low, high], [row["miou"]] * 2, color=line.colour, linewidth=1)
            axes.plot(row["total_ms"], row["miou"], line.marker, color=line.colour, markersize=8)
        axes.set_xscale("log")
        label_plainly(axes.xaxis)
        axes.set(xlabel="milliseconds per image with one prompt", ylabel=f"mean IoU, {label}")
        axes.margins(0.12)

    return ReportFigure(
        "quality_and_cost",
        "Mean IoU versus latency of an image with one prompt",
        "Upper left is better. Bars show the 10th to 90th percentile of the latency.",
        (panel,),
        table,
        {name: style[name] for name in table["checkpoint"]},
    )
