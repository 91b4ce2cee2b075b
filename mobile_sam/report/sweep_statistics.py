"""Comparisons between the variants of a run: with the best one, by key, and of pairs of keys."""

import json
from collections.abc import Sequence
from itertools import combinations as pairs_of

import numpy as np
import pandas as pd

from mobile_sam.metrics.crossed import CrossedMean, crossed_mean
from mobile_sam.metrics.intervals import LEVEL, holm
from mobile_sam.report.inputs.from_sweep import Scores, SweepData

Rankings = dict[str, pd.DataFrame]  # by prompt


def rankings(sweep: SweepData) -> Rankings:
    """Return `ranking` for each prompt; it takes a test for each pair of combinations."""
    return {prompt: ranking(sweep, prompt) for prompt in sweep.scores}


def ranking(sweep: SweepData, prompt: str) -> pd.DataFrame:
    """Return a row for each combination, the best first.

    Columns combination, the keys, seeds, miou, low, high, and the difference to the best one:
    difference, difference_low, difference_high, p_value, adjusted_p. The p-values are adjusted for
    all pairs of combinations, because these images also selected the best one.
    """
    scores = sweep.scores[prompt]
    estimates = {name: each.estimate for name, each in scores.items()}
    order = sorted(scores, key=lambda name: -estimates[name].mean)
    best, others = order[0], order[1:]
    differences = {name: difference(scores[name], scores[best]) for name in others}
    all_pairs = [difference(scores[a], scores[b]).p_value for a, b in pairs_of(order[1:], 2)]
    adjusted = holm([*(d.p_value for d in differences.values()), *all_pairs])
    rows = []
    for place, name in enumerate(order):
        estimate, delta = estimates[name], differences.get(name)
        row = {"combination": name, **sweep.combinations[name], "seeds": len(scores[name].sums)}
        row |= {"miou": estimate.mean, "low": estimate.low, "high": estimate.high}
        for column, attribute in _DIFFERENCE.items():
            row[column] = np.nan if delta is None else getattr(delta, attribute)
        rows.append(row | {"adjusted_p": adjusted[place - 1] if delta else np.nan})
    return pd.DataFrame(rows)


_DIFFERENCE = {
    "difference": "mean",
    "difference_low": "low",
    "difference_high": "high",
    "p_value": "p_value",
}


def difference(first: Scores, second: Scores) -> CrossedMean:
    """Return the mean IoU of the first minus that of the second, paired by seed and image.

    With unequal numbers of seeds, the first ones of both are paired.
    """
    seeds = min(len(first.sums), len(second.sums))
    return crossed_mean(first.sums[:seeds] - second.sums[:seeds], first.counts)


def main_effects(sweep: SweepData, prompt: str) -> pd.DataFrame:
    """Return the mean IoU of each value of each key, over all combinations that have it.

    Columns key, value, combinations, miou, low, high.
    """
    rows = []
    for key in sweep.keys:
        for value, names in _by_value(sweep, key).items():
            estimate = _mean([sweep.scores[prompt][name] for name in names]).estimate
            row = {"key": key, "value": value, "combinations": len(names)}
            rows.append(row | {"miou": estimate.mean, "low": estimate.low, "high": estimate.high})
    columns = ["key", "value", "combinations", "miou", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def interactions(sweep: SweepData, prompt: str) -> pd.DataFrame:
    """Return the largest deviation from additive effects for each pair of keys.

    Columns keys, values, deviation (mean IoU above the sum of both effects), low, high, adjusted_p.
    Pairs of which not every combination of values exists are left out.
    """
    found: list[tuple[str, str, CrossedMean]] = []
    for first, second in pairs_of(sweep.keys, 2):
        cells = _cells(sweep, prompt, first, second)
        if cells is None:
            continue
        grand = _mean(list(cells.values()))
        for (a, b), cell in cells.items():
            row = _mean([each for (x, _), each in cells.items() if x == a])
            column = _mean([each for (_, y), each in cells.items() if y == b])
            sums = cell.sums - row.sums - column.sums + grand.sums
            found.append((f"{first} x {second}", f"{a}, {b}", crossed_mean(sums, cell.counts)))
    adjusted = holm([estimate.p_value for _, _, estimate in found])
    rows = [
        {
            "keys": keys,
            "values": values,
            "deviation": estimate.mean,
            "low": estimate.low,
            "high": estimate.high,
            "adjusted_p": p,
        }
        for (keys, values, estimate), p in zip(found, adjusted, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["keys", "values", "deviation", "low", "high", "adjusted_p"])
    largest = frame["deviation"].abs().groupby(frame["keys"]).idxmax()
    return frame.loc[largest].reset_index(drop=True)


def verdict(sweep: SweepData, tables: Rankings) -> list[str]:
    """Return sentences: which setting wins, by how much, and what would make it more certain."""
    table = tables[sweep.first_prompt]
    best = table.iloc[0]
    sentences = [
        f"{best['combination']} has the highest mean IoU, {best['miou']:.3f} with "
        f"{sweep.first_prompt} prompts{_interval(best['low'], best['high'])}."
    ]
    if len(sweep.stopped):
        sentences += [
            f"{len(sweep.stopped)} of {len(sweep.stopped) + len(table)} combinations were stopped "
            "early, because others had a higher validation IoU after the same epochs."
        ]
    others = len(table) - 1
    if not others:
        return sentences
    second = table.iloc[1]
    similar = int((~(table["adjusted_p"][1:] <= LEVEL)).sum())
    if not similar:
        margin = f"{abs(second['difference']):.3f}"
        return [*sentences, f"It is significantly better than all {others} others, by {margin}."]
    return [
        *sentences,
        f"{similar} of the {others} others do not differ significantly from it. The next one, "
        f"{second['combination']}, is {abs(second['difference']):.3f} below it "
        f"(adjusted p = {second['adjusted_p']:.2g}).",
        _more(sweep, str(best["combination"]), str(second["combination"])),
    ]


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) else f" (95 % interval {low:.3f} to {high:.3f})"


def _more(sweep: SweepData, best: str, second: str) -> str:
    """Return whether more seeds or more images would narrow the interval of a difference."""
    scores = sweep.scores[sweep.first_prompt]
    estimate = difference(scores[second], scores[best])
    if sweep.seeds == 1:
        return "With one seed, chance in training is not known; set replicates to 3 or more."
    if np.isnan(estimate.of_images):
        return "More validation images are needed; there is only one."
    share = estimate.of_seeds / max(estimate.of_seeds + estimate.of_images, 1e-300)
    if share > 0.5:
        return f"More seeds would help: {share:.0%} of this difference's variance is between seeds."
    return (
        f"More validation images would help more than more seeds: {1 - share:.0%} of this "
        "difference's variance is between images."
    )


def _by_value(sweep: SweepData, key: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, values in sweep.combinations.items():
        groups.setdefault(value_text(values[key]), []).append(name)
    return groups


def value_text(value: object) -> str:
    """Return a value as it stands in the run's file; text without quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def _cells(
    sweep: SweepData, prompt: str, first: str, second: str
) -> dict[tuple[str, str], Scores] | None:
    rows, columns = _by_value(sweep, first), _by_value(sweep, second)
    names = {
        (a, b): [name for name in rows[a] if name in columns[b]] for a in rows for b in columns
    }
    if len(rows) < 2 or len(columns) < 2 or not all(names.values()):
        return None
    return {
        cell: _mean([sweep.scores[prompt][name] for name in inside])
        for cell, inside in names.items()
    }


def _mean(scores: Sequence[Scores]) -> Scores:
    """Return the mean over combinations, seed by seed; of the seeds that all of them have."""
    seeds = min(len(each.sums) for each in scores)
    return Scores(np.mean([each.sums[:seeds] for each in scores], axis=0), scores[0].counts)
