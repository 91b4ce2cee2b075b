"""Variants of a run: their list, and which of them successive halving stops."""

import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from mobile_sam.config.keys import Strict
from mobile_sam.config.load import Variants, load_settings
from mobile_sam.config.schedule import stage_at
from mobile_sam.config.sweep import Combination, SweepStop, combination_members
from mobile_sam.paths import RunPaths, halving_file, run_files
from mobile_sam.system.atomic_files import json_content, update_json, write_json
from mobile_sam.system.errors import ConfigError, UserError
from mobile_sam.system.paths import read_text

Scores = dict[str, float | None]  # of combinations; None for those that have diverged


class SweepList(Strict):
    """Content of a `sweep.json`. variants: values of each variant, by the name of its run."""

    variants: dict[str, Combination]
    sweep_stop: SweepStop | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a `sweep.json`. Raises ConfigError."""
        try:
            return cls.model_validate_json(read_text(path))
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"{path}: not the list of variants of a run ({problem})") from None


class Halving(Strict):
    """Decision after an epoch of `sweep_stop`.

    scores: mean validation IoU of each combination that was trained to this epoch; None if one of
    its variants has diverged. remaining: names of the variants that continue.
    """

    scores: Scores
    remaining: list[str]


def write_list(group: Variants) -> None:
    """Write the `sweep.json` of the variants of a run."""
    stop = group.config.sweep_stop
    content = SweepList(variants=group.values, sweep_stop=stop).model_dump(mode="json")
    update_json(RunPaths(group.config).sweep, content)


def write_halving(path: Path, epoch: int) -> None:
    """Write which variants of a `sweep.json` continue after an epoch of its `sweep_stop`.

    Raises ConfigError if there is no such epoch or if the training up to it is missing, and
    UserError if all variants have diverged.
    """
    sweep = SweepList.read(path)
    stop = sweep.sweep_stop
    if stop is None or epoch not in stop.epochs:
        raise ConfigError(f"--halve: {epoch} is not among the epochs of sweep_stop in {path}")
    names = list(sweep.variants)
    for before in stop.epochs[: stop.epochs.index(epoch)]:
        names = read_halving(path, before).remaining
    members = combination_members(path.parent.name, {n: sweep.variants[n] for n in names})
    project = path.parents[2]
    rungs = {
        combination: tuple(_rung(run_files(project / name)[0], epoch) for name in of)
        for combination, of in members.items()
    }
    scores = {combination: _mean(map(_iou, of)) for combination, of in rungs.items()}
    best = best_of(scores, rungs, math.ceil(len(members) / stop.reduction_factor))
    if not best:
        raise UserError(f"{path}: all variants have diverged by epoch {epoch}; see their logs")
    remaining = [name for name in names if any(name in members[each] for each in best)]
    # Later decisions were made from another one, and Snakemake would use them for a while.
    for later in stop.epochs[stop.epochs.index(epoch) + 1 :]:
        halving_file(path, later).unlink(missing_ok=True)
    write_json(halving_file(path, epoch), Halving(scores=scores, remaining=remaining).model_dump())


def best_of(scores: Scores, rungs: Mapping[str, tuple[Path, ...]], count: int) -> set[str]:
    """Return at least `count` combinations, the best ones first; those without a score never.

    Combinations that were trained alike so far have the same rungs, and stay together. Of other
    equal ones, the first of the sweep are chosen.
    """
    ranked = sorted((n for n in scores if scores[n] is not None), key=lambda n: -(scores[n] or 0))
    best: set[str] = set()
    for name in ranked[:count]:
        if len(best) < count:
            best |= {other for other in ranked if rungs[other] == rungs[name]}
    return best


def read_halving(path: Path, epoch: int) -> Halving:
    """Read the decision after an epoch for a `sweep.json`. Raises ConfigError."""
    place = halving_file(path, epoch)
    try:
        return Halving.model_validate_json(read_text(place))
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ConfigError(f"{place}: damaged ({problem}); delete it, and run it again") from None


def _rung(settings: Path, epoch: int) -> Path:
    """Return the file of a variant's validation IoU at an epoch."""
    config = load_settings(settings)
    return RunPaths(config).rung(stage_at(config, epoch), epoch)


def _iou(rung: Path) -> float | None:
    """Return the validation IoU of a training; None if it has diverged. Raises ConfigError."""
    content = json_content(rung)
    if not isinstance(content, dict) or not isinstance(content.get("iou"), float | None):
        raise ConfigError(f"{rung}: missing or damaged; train the variant to this epoch first")
    return content["iou"]


def _mean(ious: Iterable[float | None]) -> float | None:
    """Return the mean; None if a value is missing."""
    values = list(ious)
    known = [iou for iou in values if iou is not None]
    return statistics.fmean(known) if len(known) == len(values) else None
