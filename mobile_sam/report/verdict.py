"""The verdict: sentences with numbers that say what was bought, and whether it is beyond chance."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from mobile_sam.report.differences import Difference
from mobile_sam.report.measured import Measured
from mobile_sam.report.words import prompt_label


def verdict(
    measured: Measured, summary: pd.DataFrame, differences: Sequence[Difference]
) -> list[str]:
    """The first sentence is the answer, the others say where it comes from and how it compares."""
    miou = _mious(summary)
    mine = {d.against: d for d in differences if _of_main(d, measured)}
    sentences = [_headline(measured, miou, mine), *_steps(measured, differences)]
    for kinds in (("teacher",), ("compared",)):
        against = [mine[name] for name in measured.of_kind(*kinds) if name in mine]
        if against:
            sentences.append(_sentence([_relation(d) for d in against]))
    rivals = [mine[n] for n in measured.of_kind("stage") if n in mine and _is_rival(measured, n)]
    if rivals:
        sentences.append(_sentence([_relation(d) for d in rivals]))
    sentences += _warnings(measured, miou, mine)
    return sentences


def _mious(summary: pd.DataFrame) -> dict[tuple[str, str], float]:
    return {(row.checkpoint, row.prompt): row.miou for row in summary.itertuples()}


def _of_main(found: Difference, measured: Measured) -> bool:
    return found.what == measured.main and found.prompt == measured.first_prompt


def _is_rival(measured: Measured, name: str) -> bool:
    """Whether it is another run's, rather than a stage before."""
    return measured.training is None or measured.training.epochs["run"].nunique() > 1


def _headline(
    measured: Measured, miou: dict[tuple[str, str], float], mine: dict[str, Difference]
) -> str:
    reached = [
        f"{miou[measured.main, prompt]:.3f} by {prompt_label(prompt)}"
        for prompt in ("box", "point")
        if (measured.main, prompt) in miou
    ] or [f"{miou[measured.main, measured.first_prompt]:.3f} by {measured.first_prompt}"]
    words = f"{measured.main} reaches a mean IoU of {' and '.join(reached)}"
    start = [mine[name] for name in measured.of_kind("start") if name in mine]
    if start:
        by = f"by {prompt_label(measured.first_prompt)} "
        words += "; " + by + _change(start[0])
    return words + "."


def _change(found: Difference) -> str:
    """`0.120 more than start (0.692), ...`."""
    return f"{_apart(found)} {found.against} ({found.miou_against:.3f}), {_chance(found)}"


def _relation(found: Difference) -> str:
    return f"{found.what} is {_change(found)}"


def _apart(found: Difference) -> str:
    if found.difference == 0:
        return "the same as"
    return f"{abs(found.difference):.3f} {'above' if found.difference > 0 else 'below'}"


def _chance(found: Difference) -> str:
    if math.isnan(found.low):
        return "of one image, from which no interval follows"
    interval = f"95 % interval {signed(found.low)} to {signed(found.high)}"
    return f"{interval}: {'beyond chance' if found.beyond_chance else 'could be chance'}"


def signed(value: float) -> str:
    """Three decimals with a sign."""
    return f"{value:+.3f}".replace("-", "−")


def _steps(measured: Measured, differences: Sequence[Difference]) -> list[str]:
    """What each stage brought, where there is more than one."""
    steps = [
        d
        for step in measured.steps
        for d in differences
        if (d.what, d.against) == step and d.prompt == measured.first_prompt
    ]
    stages = set(measured.of_kind("stage"))
    if len(steps) < 2 or not {d.what for d in steps} <= stages or "start" not in measured.names:
        return []
    words = [
        f"{d.what} brought {signed(d.difference)} ({'beyond chance' if d.beyond_chance else 'could be chance'})"
        for d in steps
    ]
    return [_sentence([f"Of this, {', '.join(words)}"])]


def _warnings(
    measured: Measured, miou: dict[tuple[str, str], float], mine: dict[str, Difference]
) -> list[str]:
    """The filled box, and a better checkpoint of the same run."""
    sentences, prompt = [], measured.first_prompt
    for name in measured.of_kind("baseline"):
        if name in mine:
            found = mine[name]
            relation = "above" if found.difference > 0 else "not above"
            sentences.append(
                f"It is {relation} the filled box ({found.miou_against:.3f}), the mask that takes "
                "no model."
            )
    own = [n for n in measured.of_kind("start", "stage", "best") if (n, prompt) in miou]
    if own:
        best = max(own, key=lambda name: miou[name, prompt])
        if miou[best, prompt] > miou.get((measured.main, prompt), math.inf):
            sentences.append(f"The best of all steps is {best} with {miou[best, prompt]:.3f}.")
    return sentences


def _sentence(parts: Sequence[str]) -> str:
    return "; ".join(parts) + "."


class Tile(NamedTuple):
    """A number to read at a glance."""

    number: str
    label: str
    detail: str


def tiles(
    measured: Measured, summary: pd.DataFrame, differences: Sequence[Difference]
) -> list[Tile]:
    """The main what by box and point, and how far it is from start, teacher and filled box."""
    miou = _mious(summary)
    found = [
        Tile(f"{miou[measured.main, prompt]:.3f}", f"mIoU by {prompt_label(prompt)}", measured.main)
        for prompt in ("box", "point")
        if (measured.main, prompt) in miou
    ]
    mine = {d.against: d for d in differences if _of_main(d, measured)}
    for name in measured.of_kind("start", "stage", "teacher", "compared", "baseline"):
        if name in mine and len(found) < _MOST_TILES:
            d = mine[name]
            sure = "beyond chance" if d.beyond_chance else "could be chance"
            detail = f"{signed(d.low)} to {signed(d.high)}, {sure}" if d.images > 1 else "one image"
            label = f"by {prompt_label(d.prompt)} against {name}"
            found.append(Tile(signed(d.difference), label, detail))
    return found


_MOST_TILES = 6
