"""Figure of corrective clicks."""

from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mobile_sam.report.inputs.report_data import ReportData
from mobile_sam.report.plots.figures import ReportFigure, Style, styles
from mobile_sam.report.tables import MAX_CLICKS, never

_LIMITS = (80, 90)


def plot_clicks(report: ReportData, summary: pd.DataFrame) -> ReportFigure:
    """Plot mean IoU after 1, 3 and 5 clicks, and the share of objects that reach an IoU."""
    parts = {"mean IoU": _after(report, summary)}
    for limit in _LIMITS:
        parts[f"share of objects with IoU ≥ 0.{limit}"] = _reached(report.objects, limit)
    parts = {title: rows for title, rows in parts.items() if len(rows)}
    key = {
        checkpoint.name: styles(report.checkpoints)[checkpoint.name] for checkpoint in report.models
    }
    panels = tuple(partial(_panel, title=t, rows=rows, key=key) for t, rows in parts.items())
    table = pd.concat([rows.assign(measure=title) for title, rows in parts.items()])
    return ReportFigure(
        "clicks",
        "Mean IoU and share of objects above an IoU, by number of clicks",
        "Higher is better. Each click after the first is on the deepest pixel of the largest "
        "error.",
        panels,
        table[["measure", "checkpoint", "clicks", "value"]],
        key,
    )


def _after(report: ReportData, summary: pd.DataFrame) -> pd.DataFrame:
    """Return mean IoU after some clicks: columns checkpoint, clicks, value."""
    if "clicks_5" not in report.prompts:
        return pd.DataFrame()
    # The first click of a session takes the top-scored of three masks, if that was evaluated.
    first = "point_chosen_of_3" if "point_chosen_of_3" in report.prompts else "point"
    counts = {first: 1, "clicks_3": 3, "clicks_5": 5}
    rows = summary[summary["prompt"].isin(counts)]
    columns = {"checkpoint": rows["checkpoint"], "clicks": rows["prompt"].map(counts)}
    return pd.DataFrame({**columns, "value": rows["miou"]})


def _reached(objects: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return the share of objects that reached an IoU with at most so many clicks."""
    sessions = objects[objects["prompt"] == "noc"]
    sessions = sessions.assign(never=never(sessions, limit))
    points = []
    for name, rows in sessions.groupby("checkpoint", sort=False, observed=True):
        used = rows.loc[~rows["never"], f"noc_{limit}"]
        points += [
            {"checkpoint": str(name), "clicks": n, "value": (used <= n).sum() / len(rows)}
            for n in range(1, MAX_CLICKS + 1)
        ]
    return pd.DataFrame(points)


def _panel(axes: Axes, title: str, rows: pd.DataFrame, key: dict[str, Style]) -> None:
    for name, style in key.items():
        line = rows[rows["checkpoint"] == name]
        marker = style.marker if len(line) < 6 else ""
        axes.plot(
            line["clicks"],
            line["value"],
            marker=marker,
            markersize=4.5,
            linewidth=1.7,
            **style.line,
        )
    axes.set_title(title)
    axes.set_xlabel("clicks")
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
