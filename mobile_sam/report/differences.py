"""Differences between checkpoints, each with its interval, and what follows from them."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mobile_sam.config import UserError
from mobile_sam.data.overlays import COLOURS
from mobile_sam.metrics.intervals import paired_difference
from mobile_sam.report.colours import GREY
from mobile_sam.report.measured import Measured
from mobile_sam.report.pictures import Picture
from mobile_sam.report.plots import each, plain_prompts
from mobile_sam.report.words import MINUS, prompt_label


class Difference(NamedTuple):
    """mIoU of `what` less that of `against`, over the same segments, with its 95 % interval."""

    what: str
    against: str
    prompt: str
    images: int
    objects: int
    miou: float
    miou_against: float
    difference: float
    low: float
    high: float

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval leaves out zero; never with one image, which has no interval."""
        return self.low > 0 or self.high < 0


def all_differences(measured: Measured) -> list[Difference]:
    """One for each pair and plain prompt that both were measured by."""
    found = []
    for prompt in plain_prompts(measured):
        of_prompt = measured.objects[measured.objects["prompt"] == prompt]
        sums = _by_image(of_prompt)
        for what, against in measured.pairs:
            if {what, against} <= sums.keys():
                found.append(_difference(what, against, prompt, sums))
    return found


def as_table(differences: list[Difference]) -> pd.DataFrame:
    """The same as columns, with `beyond_chance`."""
    table = pd.DataFrame(differences, columns=list(Difference._fields))
    table["beyond_chance"] = ["yes" if d.beyond_chance else "no" for d in differences]
    return table


def plot_differences(measured: Measured, differences: list[Difference]) -> Picture:
    """Each difference with its interval, a panel for each prompt."""
    prompts = [p for p in plain_prompts(measured) if any(d.prompt == p for d in differences)]

    def panel(axes: Axes, prompt: str) -> None:
        shown = [d for d in differences if d.prompt == prompt]
        for place, found in enumerate(shown):
            colour = _colour(found)
            axes.plot([found.low, found.high], [place] * 2, color=colour, linewidth=2)
            marker = "o" if found.beyond_chance else "D"
            axes.plot(found.difference, place, marker, color=colour, markersize=6)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_yticks(range(len(shown)), [f"{d.what}\n{MINUS} {d.against}" for d in shown])
        axes.tick_params(axis="y", labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel("difference of mean IoU")
        axes.set_title(f"by {prompt_label(prompt)}")
        axes.grid(visible=False, axis="y")

    most = max((sum(d.prompt == p for d in differences) for p in prompts), default=0)
    return Picture(
        "differences",
        "Differences of mean IoU with their intervals",
        "Right of the line the first of the two is better. Blue and round: better beyond chance; "
        "orange and round: worse beyond chance; a grey diamond: could be chance.",
        each(panel, prompts),
        as_table(differences),
        height=max(1.6, 0.9 + 0.36 * most),
    )


def _by_image(objects: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Sum of IoU and number of segments of each image, by checkpoint."""
    grouped = objects.groupby(["checkpoint", "image_id"], observed=True)["iou"]
    table = grouped.agg(["sum", "size"]).reset_index()
    return {
        str(name): rows.set_index("image_id")[["sum", "size"]].sort_index()
        for name, rows in table.groupby("checkpoint", observed=True)
    }


def _difference(what: str, against: str, prompt: str, sums: dict[str, pd.DataFrame]) -> Difference:
    first, second = sums[what], sums[against]
    if list(first.index) != list(second.index) or not np.array_equal(first["size"], second["size"]):
        raise UserError(
            f"{what} and {against} were not measured on the same segments by {prompt}; validate "
            "both on the same data set"
        )
    count = first["size"].to_numpy()
    found = paired_difference(first["sum"].to_numpy(), second["sum"].to_numpy(), count)
    mean, mean_against = (float(table["sum"].sum() / count.sum()) for table in (first, second))
    return Difference(
        what,
        against,
        prompt,
        len(first),
        int(count.sum()),
        mean,
        mean_against,
        found.difference,
        found.low,
        found.high,
    )


def _colour(found: Difference) -> str:
    if not found.beyond_chance:
        return GREY
    return COLOURS[0] if found.difference > 0 else COLOURS[5]
