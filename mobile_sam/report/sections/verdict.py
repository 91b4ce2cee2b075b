"""Verdict: sentences that summarise the results and their significance."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from mobile_sam.report.differences import Difference
from mobile_sam.report.inputs.report_data import Kind, ReportData
from mobile_sam.report.labels import format_signed, with_prompt

_MAX_TILES = 6


class Tile(NamedTuple):
    """Key number at the top of the page."""

    number: str
    label: str
    detail: str


def verdict(
    report: ReportData, summary: pd.DataFrame, differences: Sequence[Difference]
) -> list[str]:
    """Return sentences; the first is the main result, the others give changes and comparisons."""
    mious, by_name = _mious(summary), _main_differences(report, differences)
    others = report.of_kind("start", *(() if report.chain else ("stage",)))
    others += report.of_kind("teacher", "compared")
    against = [by_name[name] for name in others if name in by_name]
    sentences = [_headline(report, mious, against[:1], by_name)]
    sentences += _steps(report, differences)
    sentences += [_relation_sentence(difference) for difference in against[1:]]
    return sentences + _against_box(report, by_name) + _better_step(report, mious)


def tiles(
    report: ReportData, summary: pd.DataFrame, differences: Sequence[Difference]
) -> list[Tile]:
    """Return results of the main checkpoint, and its differences from the other checkpoints."""
    mious, by_name = _mious(summary), _main_differences(report, differences)
    main = report.main
    tile_list = [
        Tile(f"{mious[main, prompt]:.3f}", f"mean IoU, {with_prompt(prompt)}", main)
        for prompt in _headline_prompts(report, mious)
    ]
    kinds: tuple[Kind, ...] = ("start", "teacher", "compared", "stage", "baseline")
    names = [name for kind in kinds for name in report.of_kind(kind) if name in by_name]
    for name in names[: _MAX_TILES - len(tile_list)]:
        label = f"vs. {name}, {with_prompt(by_name[name].prompt)}"
        tile_list.append(
            Tile(format_signed(by_name[name].difference), label, _significance(by_name[name]))
        )
    return tile_list


def _mious(summary: pd.DataFrame) -> dict[tuple[str, str], float]:
    keys = zip(summary["checkpoint"], summary["prompt"], strict=True)
    return dict(zip(keys, summary["miou"], strict=True))


def _main_differences(
    report: ReportData, differences: Sequence[Difference]
) -> dict[str, Difference]:
    """Return the differences of the main checkpoint with the first prompt, by compared name."""
    prompt = report.first_prompt
    return {d.against: d for d in differences if (d.checkpoint, d.prompt) == (report.main, prompt)}


def _headline_prompts(report: ReportData, mious: dict[tuple[str, str], float]) -> list[str]:
    plain = [prompt for prompt in ("box", "point") if (report.main, prompt) in mious]
    return plain or [report.first_prompt]


def _headline(
    report: ReportData,
    mious: dict[tuple[str, str], float],
    against: Sequence[Difference],
    by_name: dict[str, Difference],
) -> str:
    """Return the main result: mean IoU, its difference from the start, and other prompts."""
    reached = [
        f"{mious[report.main, prompt]:.3f} with {with_prompt(prompt)}"
        for prompt in _headline_prompts(report, mious)
    ]
    reached[0] += "".join(f", {_format_difference(difference)}" for difference in against)
    text = f"{report.main} reaches a mean IoU of {reached[0]}"
    text += "".join(f"{',' if against else ''} and {more}" for more in reached[1:])
    prompt = report.first_prompt
    others = [mious[n, prompt] for n in report.rivals if (n, prompt) in mious]
    if others and not report.chain and mious[report.main, prompt] >= max(others):
        return f"Of {len(others) + 1} checkpoints, {text}: {_rank(report, by_name)}."
    return f"{text}{_caveat(report)}."


def _caveat(report: ReportData) -> str:
    notes = {checkpoint.name: checkpoint.note for checkpoint in report.checkpoints}
    return f" ({notes[report.main]})" if notes[report.main] else ""


def _relation_sentence(difference: Difference) -> str:
    return f"With {with_prompt(difference.prompt)} it is {_format_difference(difference)}."


def _format_difference(difference: Difference) -> str:
    """Format as `0.120 above start (0.692; 95 % interval +0.1 to +0.14, significant)`."""
    relation = (
        f"{abs(difference.difference):.3f} {'above' if difference.difference > 0 else 'below'}"
    )
    if not round(difference.difference, 3):
        relation = "equal to"
    comparison = f"{difference.miou_against:.3f}; {_significance(difference)}"
    return f"{relation} {difference.against} ({comparison})"


def _rank(report: ReportData, by_name: dict[str, Difference]) -> str:
    """Return whether the main checkpoint is significantly better than each rival."""
    rivals = [by_name[name] for name in report.rivals if name in by_name]
    if rivals and all(
        difference.significant and difference.difference > 0 for difference in rivals
    ):
        return "it is significantly better than all others"
    return "it has the highest mean IoU"


def _significance(difference: Difference) -> str:
    if math.isnan(difference.low):
        return difference.verdict
    low, high = format_signed(difference.low), format_signed(difference.high)
    return f"95 % interval {low} to {high}, {difference.verdict}"


def _steps(report: ReportData, differences: Sequence[Difference]) -> list[str]:
    """Return the change by each stage if there is more than one."""
    by_pair = {(d.checkpoint, d.against): d for d in differences if d.prompt == report.first_prompt}
    steps = [by_pair[step] for step in report.steps if step in by_pair]
    if not report.chain or len(steps) < 2:
        return []
    text = [f"{d.checkpoint} {format_signed(d.difference)} ({d.verdict})" for d in steps]
    return [f"Change by stage: {', '.join(text)}."]


def _against_box(report: ReportData, by_name: dict[str, Difference]) -> list[str]:
    baselines = [by_name[name] for name in report.of_kind("baseline") if name in by_name]
    return [
        f"It is {'above' if difference.difference > 0 else 'not above'} the filled box "
        f"({difference.miou_against:.3f}), a baseline without a model."
        for difference in baselines
    ]


def _better_step(report: ReportData, mious: dict[tuple[str, str], float]) -> list[str]:
    """Return the best checkpoint of the run if it is not the main one."""
    if not report.chain:
        return []
    means = {
        name: mious[name, report.first_prompt]
        for name in report.of_kind("start", "stage", "best")
        if (name, report.first_prompt) in mious
    }
    highest = max(means, key=lambda name: means[name])
    if round(means[highest] - means.get(report.main, math.inf), 3) <= 0:
        return []
    return [
        f"The best checkpoint of the run is {highest} ({means[highest]:.3f}), not {report.main}."
    ]
