"""Figures of the variants of a run."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mobile_sam.report.inputs.from_sweep import SweepData
from mobile_sam.report.labels import with_prompt
from mobile_sam.report.plots.figures import GREY, ReportFigure, line_style

_BLUE = line_style(0).colour


def plot_ranking(sweep: SweepData, tables: dict[str, pd.DataFrame]) -> ReportFigure:
    """Plot the mean IoU of each combination with its interval, one panel per prompt."""
    order = list(tables[sweep.first_prompt]["combination"])

    def panel(axes: Axes, prompt: str) -> None:
        rows = tables[prompt].set_index("combination").loc[order]
        for place, (_, row) in enumerate(rows.iterrows()):
            axes.plot([row["low"], row["high"]], [place] * 2, color=_BLUE, linewidth=2)
            axes.plot(row["miou"], place, "o", color=_BLUE, markersize=6)
        for (name, of_prompt), miou in sweep.baselines.items():
            if of_prompt == prompt:
                axes.axvline(miou, color=GREY, linewidth=1, linestyle="--")
                axes.annotate(name, (miou, -0.5), fontsize=7, color=GREY, ha="center", va="bottom")
        axes.set_yticks(range(len(order)), order)
        axes.tick_params(axis="y", labelsize=7)
        axes.set_ylim(len(order) - 0.5, -0.9)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"mean IoU, {with_prompt(prompt)}")
        axes.grid(visible=False, axis="y")

    return ReportFigure(
        "ranking",
        "Mean IoU of each combination of values",
        "Lines are 95 % intervals over seeds and images. Combinations whose intervals overlap may "
        "still differ significantly, because differences are paired; see the table.",
        tuple(partial(panel, prompt=prompt) for prompt in sweep.scores),
        pd.concat([table.assign(prompt=prompt) for prompt, table in tables.items()]),
        height=max(1.8, 0.9 + 0.2 * len(order)),
        width=5.2,
    )


def plot_main_effects(sweep: SweepData, effects: pd.DataFrame) -> ReportFigure:
    """Plot the mean IoU of each value of each key, one panel per key, on a common scale."""
    low, high = effects["low"].min(), effects["high"].max()

    def panel(axes: Axes, key: str) -> None:
        rows = effects[effects["key"] == key]
        places = np.arange(len(rows))
        axes.plot(places, rows["miou"], color=_BLUE, linewidth=1, marker="o", markersize=6)
        axes.vlines(places, rows["low"], rows["high"], color=_BLUE, linewidth=2)
        axes.set_xticks(places, [value[:24] for value in rows["value"]])
        axes.tick_params(axis="x", labelsize=7)
        axes.set_xlim(-0.5, len(rows) - 0.5)
        if np.isfinite([low, high]).all() and low < high:
            margin = 0.05 * (high - low)
            axes.set_ylim(low - margin, high + margin)
        axes.set_ylabel("mean IoU")
        axes.set_title(key)
        axes.grid(visible=False, axis="x")

    return ReportFigure(
        "main_effects",
        "Mean IoU of each value, over all combinations that have it",
        f"Means over all combinations with a value, {with_prompt(sweep.first_prompt)}; lines are "
        "95 % intervals over seeds and images.",
        tuple(partial(panel, key=key) for key in effects["key"].unique()),
        effects,
    )


def plot_time(table: pd.DataFrame) -> ReportFigure:
    """Plot mean IoU by training time. table: columns combination, minutes, miou."""
    rows, panel = _front(table, "minutes", "minutes of training")
    return ReportFigure(
        "time",
        "Mean IoU versus training time",
        "Upper left is better. Blue: no other combination is both better and faster to train (the "
        "Pareto front). Stages that several variants share count for each of them.",
        (panel,),
        rows,
        width=5.2,
    )


def plot_latency(table: pd.DataFrame) -> ReportFigure:
    """Plot mean IoU by latency. table: columns combination, latency_ms, miou."""
    rows, panel = _front(table, "latency_ms", "ms for one image and one prompt")
    return ReportFigure(
        "latency",
        "Mean IoU versus latency",
        "Upper left is better. Blue: no other combination is both better and faster (the Pareto "
        "front). Median time of encoder and decoder on the machine of the workflow; models of "
        "equal size were measured once.",
        (panel,),
        rows,
        width=5.2,
    )


def _front(
    table: pd.DataFrame, cost: str, label: str
) -> tuple[pd.DataFrame, Callable[[Axes], None]]:
    """Return the table with a column `front`, and a panel of mean IoU by a cost."""
    better = [
        ((table[cost] < row[cost]) & (table["miou"] >= row["miou"])).any()
        or ((table[cost] <= row[cost]) & (table["miou"] > row["miou"])).any()
        for _, row in table.iterrows()
    ]
    rows = table.assign(front=[not each for each in better])

    def panel(axes: Axes) -> None:
        front = rows[rows["front"]].sort_values(cost)
        axes.step(front[cost], front["miou"], where="post", color=GREY, linewidth=1)
        for _, row in rows.iterrows():
            colour = _BLUE if row["front"] else GREY
            axes.plot(row[cost], row["miou"], "o", color=colour, markersize=6)
        for _, row in front.iterrows():
            axes.annotate(
                row["combination"],
                (row[cost], row["miou"]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
            )
        axes.set(xlabel=label, ylabel="mean IoU")
        axes.margins(0.15)

    return rows, panel


def plot_learning(sweep: SweepData, shown: list[str]) -> ReportFigure:
    """Plot validation IoU by epoch; bands are the range over seeds. shown: combinations."""
    styles = {name: line_style(number) for number, name in enumerate(shown)}
    epochs = sweep.epochs[sweep.epochs["combination"].isin(shown)]
    grouped = epochs.groupby(["combination", "epoch"], sort=False)["iou"]
    table = grouped.agg(["mean", "min", "max"]).reset_index()

    def panel(axes: Axes) -> None:
        for name, style in styles.items():
            rows = table[table["combination"] == name]
            axes.fill_between(
                rows["epoch"] + 1, rows["min"], rows["max"], color=style.colour, alpha=0.15, lw=0
            )
            axes.plot(rows["epoch"] + 1, rows["mean"], linewidth=1.6, **style.line)
        axes.set(xlabel="epoch", ylabel="validation IoU, box prompts")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return ReportFigure(
        "learning",
        "Validation IoU by epoch",
        "Means over seeds; bands from the lowest to the highest seed.",
        (panel,),
        table,
        styles,
        width=6.2,
    )
