"""The verdict: sentences with numbers that say what was bought, and whether it is beyond chance."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from mobile_sam.report.differences import Difference
from mobile_sam.report.measured import Kind, Measured
from mobile_sam.report.words import prompt_label, signed

_MOST_TILES = 6


class Tile(NamedTuple):
    """A number to read at a glance."""

    number: str
    label: str
    detail: str


def verdict(
    measured: Measured, summary: pd.DataFrame, differences: Sequence[Difference]
) -> list[str]:
    """The first sentence is the answer; the others say where it comes from and how it compares."""
    mious, mine = _mious(summary), _of_main(measured, differences)
    others = measured.of_kind("start", *(() if measured.chain else ("stage",)))
    others += measured.of_kind("teacher", "compared")
    against = [mine[name] for name in others if name in mine]
    sentences = [_headline(measured, mious, against[:1])]
    sentences += _steps(measured, differences)
    sentences += [_relation(found) for found in against[1:]]
    return sentences + _against_box(measured, mine) + _better_step(measured, mious)


def tiles(
    measured: Measured, summary: pd.DataFrame, differences: Sequence[Difference]
) -> list[Tile]:
    """The main what by box and point, and how far it is from start, teacher and others."""
    mious, mine = _mious(summary), _of_main(measured, differences)
    main = measured.main
    found = [
        Tile(f"{mious[main, prompt]:.3f}", f"mIoU by {prompt_label(prompt)}", main)
        for prompt in _headed(measured, mious)
    ]
    kinds: tuple[Kind, ...] = ("start", "teacher", "compared", "stage", "baseline")
    names = [name for kind in kinds for name in measured.of_kind(kind) if name in mine]
    for name in names[: _MOST_TILES - len(found)]:
        label = f"by {prompt_label(mine[name].prompt)} against {name}"
        found.append(Tile(signed(mine[name].difference), label, _chance(mine[name])))
    return found


def _mious(summary: pd.DataFrame) -> dict[tuple[str, str], float]:
    keys = zip(summary["checkpoint"], summary["prompt"], strict=True)
    return dict(zip(keys, summary["miou"], strict=True))


def _of_main(measured: Measured, differences: Sequence[Difference]) -> dict[str, Difference]:
    """The main what against others by the first prompt, by their names."""
    prompt = measured.first_prompt
    return {d.against: d for d in differences if (d.what, d.prompt) == (measured.main, prompt)}


def _headed(measured: Measured, mious: dict[tuple[str, str], float]) -> list[str]:
    plain = [prompt for prompt in ("box", "point") if (measured.main, prompt) in mious]
    return plain or [measured.first_prompt]


def _headline(
    measured: Measured, mious: dict[tuple[str, str], float], against: Sequence[Difference]
) -> str:
    """`a reaches a mean IoU of 0.8 by box, 0.1 above start (0.7; ...), and 0.7 by point.`"""
    reached = [
        f"{mious[measured.main, prompt]:.3f} by {prompt_label(prompt)}"
        for prompt in _headed(measured, mious)
    ]
    reached[0] += "".join(f", {_apart(found)}" for found in against)
    words = f"{measured.main} reaches a mean IoU of {reached[0]}"
    words += "".join(f"{',' if against else ''} and {more}" for more in reached[1:])
    prompt = measured.first_prompt
    others = [mious[n, prompt] for n in measured.rivals if (n, prompt) in mious]
    if others and not measured.chain and mious[measured.main, prompt] >= max(others):
        return f"Of {len(others) + 1}, {words}: it is the best."
    return f"{words}."


def _relation(found: Difference) -> str:
    return f"By {prompt_label(found.prompt)} it is {_apart(found)}."


def _apart(found: Difference) -> str:
    """`0.120 above start (0.692; +0.101 to +0.140, beyond chance)`."""
    apart = f"{abs(found.difference):.3f} {'above' if found.difference > 0 else 'below'}"
    if not round(found.difference, 3):
        apart = "level with"
    return f"{apart} {found.against} ({found.miou_against:.3f}; {_chance(found)})"


def _chance(found: Difference) -> str:
    if math.isnan(found.low):
        return "from one image, of which nothing follows for others"
    return f"{signed(found.low)} to {signed(found.high)}, {_sure(found)}"


def _sure(found: Difference) -> str:
    return "beyond chance" if found.beyond_chance else "could be chance"


def _steps(measured: Measured, differences: Sequence[Difference]) -> list[str]:
    """What each stage brought, where there is more than one."""
    by_pair = {(d.what, d.against): d for d in differences if d.prompt == measured.first_prompt}
    steps = [by_pair[step] for step in measured.steps if step in by_pair]
    if not measured.chain or len(steps) < 2:
        return []
    words = [f"{d.what} brought {signed(d.difference)} ({_sure(d)})" for d in steps]
    return [f"Step by step: {', '.join(words)}."]


def _against_box(measured: Measured, mine: dict[str, Difference]) -> list[str]:
    baselines = [mine[name] for name in measured.of_kind("baseline") if name in mine]
    return [
        f"It is {'above' if found.difference > 0 else 'not above'} the filled box "
        f"({found.miou_against:.3f}), the mask that takes no model."
        for found in baselines
    ]


def _better_step(measured: Measured, mious: dict[tuple[str, str], float]) -> list[str]:
    """Start, another stage or another epoch, where that is better than the main what."""
    if not measured.chain:
        return []
    own = {
        name: mious[name, measured.first_prompt]
        for name in measured.of_kind("start", "stage", "best")
        if (name, measured.first_prompt) in mious
    }
    best = max(own, key=lambda name: own[name])
    if round(own[best] - own.get(measured.main, math.inf), 3) <= 0:
        return []
    return [f"The best of its own steps is {best} with {own[best]:.3f}, not the last."]
