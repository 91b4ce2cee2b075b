"""Differences between checkpoints, with 95 % intervals and significance tests."""

from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mobile_sam.data.index.groups import assign_groups
from mobile_sam.data.overlays import COLOURS
from mobile_sam.metrics.intervals import LEVEL, holm, paired_difference
from mobile_sam.report.inputs.report_data import ReportData
from mobile_sam.report.labels import MINUS, with_prompt
from mobile_sam.report.plots.accuracy import main_prompts, prompt_panels
from mobile_sam.report.plots.figures import GREY, ReportFigure
from mobile_sam.system.errors import UserError

Verdict = Literal["significant", "not significant", "too few images"]


@dataclass(frozen=True)
class Difference:
    """Mean IoU of `checkpoint` minus that of `against` on the same objects, with 95 % interval.

    units: number of images, or of groups of images that belong together.
    p_value: for this difference alone, two-sided. adjusted_p: adjusted for all comparisons of the
    page; NaN if even the smallest p-value that this number of images can give would exceed 0.05
    after adjustment.
    """

    checkpoint: str
    against: str
    prompt: str
    units: int
    objects: int
    miou: float
    miou_against: float
    difference: float
    low: float
    high: float
    p_value: float
    adjusted_p: float = float("nan")

    @property
    def verdict(self) -> Verdict:
        """Significance after adjustment for all comparisons of the page."""
        if np.isnan(self.adjusted_p):
            return "too few images"
        return "significant" if self.significant else "not significant"

    @property
    def significant(self) -> bool:
        return self.adjusted_p <= LEVEL


def compare_checkpoints(report: ReportData) -> list[Difference]:
    """Compare each pair of checkpoints with each main prompt that both were evaluated with.

    The p-values are adjusted together, so that at most 5 % of pages without any true difference
    show a significant one. If these images also selected the best of several rivals, all pairs of
    rivals count, because any of them could have been shown.
    """
    pairs = dict.fromkeys(report.pairs)
    if not report.chain:
        shown = {frozenset(pair) for pair in pairs}
        rivals = combinations([report.main, *report.rivals], 2)
        pairs |= dict.fromkeys(pair for pair in rivals if frozenset(pair) not in shown)
    differences: list[Difference] = []
    smallest = 0.0
    for prompt in main_prompts(report):
        rows = report.objects[report.objects["prompt"] == prompt]
        sums = _by_unit(rows, report.groups)
        for checkpoint, against in pairs:
            if {checkpoint, against} <= sums.keys():
                difference, smallest_p = _difference(checkpoint, against, prompt, sums)
                differences.append(difference)
                smallest = max(smallest, smallest_p)
    if smallest * len(differences) <= LEVEL:
        adjusted = holm([d.p_value for d in differences])
        differences = [replace(d, adjusted_p=p) for d, p in zip(differences, adjusted, strict=True)]
    return [d for d in differences if (d.checkpoint, d.against) in report.pairs]


def differences_table(differences: list[Difference]) -> pd.DataFrame:
    """Return the differences as the table `differences.csv`, with their significance."""
    names = [field.name for field in fields(Difference)]
    rows = [[getattr(d, name) for name in names] for d in differences]
    # The file calls the first of the two `what`.
    table = pd.DataFrame(rows, columns=["what", *names[1:]])
    table["verdict"] = [d.verdict for d in differences]
    return table


def plot_differences(report: ReportData, differences: list[Difference]) -> ReportFigure:
    """Plot each difference with its interval, one panel per prompt."""
    prompts = [p for p in main_prompts(report) if any(d.prompt == p for d in differences)]

    def panel(axes: Axes, prompt: str) -> None:
        selected = [d for d in differences if d.prompt == prompt]
        for place, difference in enumerate(selected):
            colour = _colour(difference)
            axes.plot([difference.low, difference.high], [place] * 2, color=colour, linewidth=2)
            marker = "o" if difference.significant else "D"
            axes.plot(difference.difference, place, marker, color=colour, markersize=6)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_yticks(
            range(len(selected)), [f"{d.checkpoint}\n{MINUS} {d.against}" for d in selected]
        )
        axes.tick_params(axis="y", labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylim(len(selected) - 0.5, -0.5)
        axes.set_xlabel("difference in mean IoU")
        axes.set_title(with_prompt(prompt))
        axes.grid(visible=False, axis="y")

    most = max((sum(d.prompt == p for d in differences) for p in prompts), default=0)
    return ReportFigure(
        "differences",
        "Differences in mean IoU with 95 % intervals",
        "Right of the line, the first of the two is better. Blue circle: significantly better; "
        "orange circle: significantly worse; grey diamond: not significant, or too few images. "
        "Lines are 95 % confidence intervals.",
        prompt_panels(panel, prompts),
        differences_table(differences),
        height=max(1.6, 0.9 + 0.36 * most),
    )


def _by_unit(objects: pd.DataFrame, groups: str | None) -> dict[str, pd.DataFrame]:
    """Return the sum of IoU and the number of objects per image, or group, by checkpoint."""
    unit_of = assign_groups(map(str, objects["image_id"].unique()), groups)
    unit = objects["image_id"].astype(str).map(unit_of)
    grouped = objects.assign(unit=unit).groupby(["checkpoint", "unit"], observed=True)["iou"]
    table = grouped.agg(["sum", "size"]).reset_index()
    return {
        str(name): rows.set_index("unit")[["sum", "size"]].sort_index()
        for name, rows in table.groupby("checkpoint", observed=True)
    }


def _difference(
    checkpoint: str, against: str, prompt: str, sums: dict[str, pd.DataFrame]
) -> tuple[Difference, float]:
    """Return the difference, and the smallest p-value that this number of images can give."""
    first, second = sums[checkpoint], sums[against]
    if list(first.index) != list(second.index) or not np.array_equal(first["size"], second["size"]):
        raise UserError(
            f"{checkpoint} and {against} were not evaluated on the same objects with prompt "
            f"{prompt}; validate both on the same data set"
        )
    count = first["size"].to_numpy()
    result = paired_difference(first["sum"].to_numpy(), second["sum"].to_numpy(), count)
    mean, mean_against = (float(table["sum"].sum() / count.sum()) for table in (first, second))
    difference = Difference(
        checkpoint,
        against,
        prompt,
        len(first),
        int(count.sum()),
        mean,
        mean_against,
        result.difference,
        result.low,
        result.high,
        result.p_value,
    )
    return difference, result.smallest_p


def _colour(difference: Difference) -> str:
    if not difference.significant:
        return GREY
    return COLOURS[0] if difference.difference > 0 else COLOURS[5]
