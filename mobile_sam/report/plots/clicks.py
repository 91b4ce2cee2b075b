"""The picture of clicks: what each further one brings."""

from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mobile_sam.report.colours import Style, styles
from mobile_sam.report.measured import Measured
from mobile_sam.report.pictures import Picture
from mobile_sam.report.tables import MOST_CLICKS, never

_LIMITS = (80, 90)


def plot_clicks(measured: Measured, summary: pd.DataFrame) -> Picture:
    """Mean IoU after 1, 3 and 5 clicks, and how many segments reach an IoU within how many."""
    parts = {"mean IoU": _after(measured, summary)}
    for limit in _LIMITS:
        parts[f"share of segments at IoU 0.{limit}"] = _reached(measured.objects, limit)
    parts = {title: rows for title, rows in parts.items() if len(rows)}
    key = {what.name: styles(measured.whats)[what.name] for what in measured.models}
    panels = tuple(partial(_panel, title=t, rows=rows, key=key) for t, rows in parts.items())
    table = pd.concat([rows.assign(measure=title) for title, rows in parts.items()])
    return Picture(
        "clicks",
        "What clicks bring: mean IoU, and the share of segments that are good enough",
        "Up is better: each click after the first lies deepest in the largest error.",
        panels,
        table[["measure", "checkpoint", "clicks", "value"]],
        key,
    )


def _after(measured: Measured, summary: pd.DataFrame) -> pd.DataFrame:
    """Mean IoU after some clicks: columns checkpoint, clicks, value."""
    if "clicks_5" not in measured.prompts:
        return pd.DataFrame()
    # The session's first mask is chosen of three, where that was measured.
    first = "point_chosen_of_3" if "point_chosen_of_3" in measured.prompts else "point"
    counts = {first: 1, "clicks_3": 3, "clicks_5": 5}
    rows = summary[summary["prompt"].isin(counts)]
    columns = {"checkpoint": rows["checkpoint"], "clicks": rows["prompt"].map(counts)}
    return pd.DataFrame({**columns, "value": rows["miou"]})


def _reached(objects: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Share of segments that reached an IoU with so many clicks, or fewer."""
    sessions = objects[objects["prompt"] == "noc"]
    sessions = sessions.assign(never=never(sessions, limit))
    found = []
    for name, rows in sessions.groupby("checkpoint", sort=False, observed=True):
        used = rows.loc[~rows["never"], f"noc_{limit}"]
        found += [
            {"checkpoint": str(name), "clicks": n, "value": (used <= n).sum() / len(rows)}
            for n in range(1, MOST_CLICKS + 1)
        ]
    return pd.DataFrame(found)


def _panel(axes: Axes, title: str, rows: pd.DataFrame, key: dict[str, Style]) -> None:
    for name, style in key.items():
        own = rows[rows["checkpoint"] == name]
        marker = style.marker if len(own) < 6 else ""
        axes.plot(
            own["clicks"], own["value"], marker=marker, markersize=4.5, linewidth=1.7, **style.line
        )
    axes.set_title(title)
    axes.set_xlabel("clicks")
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
