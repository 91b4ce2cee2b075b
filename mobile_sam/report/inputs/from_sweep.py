"""Report data of the variants of a run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mobile_sam.config.checkpoints import START, baselines
from mobile_sam.config.load import load_settings
from mobile_sam.config.run import RunConfig
from mobile_sam.config.sweep import REPLICATES, combination_members
from mobile_sam.data.index.groups import assign_groups
from mobile_sam.metrics.crossed import CrossedMean, crossed_mean
from mobile_sam.paths import RunPaths, halving_file, run_files
from mobile_sam.pipeline.fingerprints import student_size
from mobile_sam.pipeline.sweeps import SweepList, read_halving
from mobile_sam.report.inputs.from_run import main_checkpoint, read_training
from mobile_sam.report.inputs.reading import read_costs, read_objects
from mobile_sam.report.labels import sort_prompts
from mobile_sam.system.errors import UserError


@dataclass(frozen=True)
class Scores:
    """IoU of one combination of values.

    sums: (S, N) sums over the objects of N images, or groups of images, for each of S seeds.
    counts: (N,) numbers of objects.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    @property
    def estimate(self) -> CrossedMean:
        return crossed_mean(self.sums, self.counts)


@dataclass(frozen=True)
class SweepData:
    """Results of the variants of a run.

    keys: those that vary, without seed and fold. combinations: values of each combination, by its
    name. scores: by prompt, then by name of the combination. epochs: columns combination, variant,
    epoch, iou. cost: columns combination, minutes (of training, mean over seeds), and, if the size
    of the student varies, latency_ms (of encoder and decoder).
    baselines: mean IoU of the filled box, the teachers and others, by name and prompt.
    missing: why a variant has no results, by name.
    stopped: combinations that successive halving stopped, which have no scores: columns
    combination, epoch, iou (in validation during training; NaN if a training diverged).
    """

    title: str
    keys: tuple[str, ...]
    combinations: dict[str, dict[str, Any]]
    scores: dict[str, dict[str, Scores]]
    epochs: pd.DataFrame
    cost: pd.DataFrame
    baselines: dict[tuple[str, str], float]
    missing: dict[str, str]
    stopped: pd.DataFrame

    @property
    def seeds(self) -> int:
        """Largest number of seeds of a combination."""
        return max(len(scores.sums) for scores in self.scores[self.first_prompt].values())

    @property
    def first_prompt(self) -> str:
        return next(iter(self.scores))


def read_sweep_runs(manifest: Path) -> SweepData:
    """Read the results of the variants in a `sweep.json`.

    Variants without results are listed. Raises UserError if none has results, or if two were
    validated on different objects.
    """
    sweep = SweepList.read(manifest)
    values = sweep.variants
    every = {name: load_settings(run_files(manifest.parents[2] / name)[0]) for name in values}
    combinations, stopped = (
        combination_members(manifest.parent.name, values),
        _stopped(manifest, sweep),
    )
    stopped_names = {name for row in stopped["combination"] for name in combinations[row]}
    expected = {name: config for name, config in every.items() if name not in stopped_names}
    problems = {name: _problem(config) for name, config in expected.items()}
    missing = {name: problem for name, problem in problems.items() if problem is not None}
    configs = {name: config for name, config in expected.items() if name not in missing}
    if not configs:
        raise UserError(f"{manifest}: no variant has results; see their logs, and run it again")
    keys = tuple(
        dict.fromkeys(key for row in values.values() for key in row if key not in REPLICATES)
    )
    members = combination_members(manifest.parent.name, {name: values[name] for name in configs})
    first = next(iter(configs.values()))
    histories = {name: read_training(config).epochs for name, config in configs.items()}
    return SweepData(
        title=f"{first.project_name} / {manifest.parent.name}: {len(values)} variants",
        keys=keys,
        combinations={
            name: {key: values[runs[0]][key] for key in keys} for name, runs in members.items()
        },
        scores=_scores(configs, members),
        epochs=_epochs(histories, members),
        cost=_cost(histories, members).assign(**_latency(every, members)),
        baselines=_baselines(every.values()),
        missing=missing,
        stopped=stopped,
    )


def _stopped(manifest: Path, sweep: SweepList) -> pd.DataFrame:
    """Return the combinations that successive halving stopped, as far as it has decided."""
    rows: list[dict[str, Any]] = []
    playing = combination_members(manifest.parent.name, sweep.variants)
    for epoch in sweep.sweep_stop.epochs if sweep.sweep_stop else ():
        if not halving_file(manifest, epoch).is_file():
            break
        halving = read_halving(manifest, epoch)
        if halving.scores.keys() != playing.keys():
            break  # the sweep has changed since
        remaining = {n: v for n, v in sweep.variants.items() if n in halving.remaining}
        continuing = combination_members(manifest.parent.name, remaining)
        playing = continuing
        rows += [
            {"combination": name, "epoch": epoch, "iou": np.nan if iou is None else iou}
            for name, iou in halving.scores.items()
            if name not in continuing
        ]
    return pd.DataFrame(rows, columns=["combination", "epoch", "iou"])


def _problem(config: RunConfig) -> str | None:
    """Return why a variant has no results; None if it has."""
    paths = RunPaths(config)
    if not paths.validation(main_checkpoint(config)).is_file():
        return f"no results; its logs are below {paths.run}/stages and {paths.logs}"
    return None


def _scores(
    configs: dict[str, RunConfig], members: dict[str, list[str]]
) -> dict[str, dict[str, Scores]]:
    tables = {
        combination: _by_seed([configs[name] for name in names])
        for combination, names in members.items()
    }
    every = [(name, table) for name, of_seed in tables.items() for table in of_seed]
    first, reference = every[0]
    for name, table in every:
        if not reference["size"].equals(table["size"]):
            raise UserError(
                f"{name} was validated on other objects than {first}; variants are comparable only "
                "on the same validation images and prompts, and with the same folds"
            )
    prompts = sort_prompts(set(reference.index.get_level_values("prompt")))
    return {
        prompt: {
            combination: Scores(
                np.stack([table.loc[prompt]["sum"].to_numpy() for table in of_seed]),
                reference.loc[prompt]["size"].to_numpy(float),
            )
            for combination, of_seed in tables.items()
        }
        for prompt in prompts
        if prompt in {"box", "point"} or not {"box", "point"} & set(prompts)
    }


def _by_seed(configs: Sequence[RunConfig]) -> list[pd.DataFrame]:
    """Return the table of each seed; that of several folds has the images of all of them."""
    folds: dict[int, list[pd.DataFrame]] = {}
    for config in configs:
        folds.setdefault(config.seed, []).append(_by_image(config))
    return [pd.concat(tables).groupby(level=[0, 1]).sum() for tables in folds.values()]


def _by_image(config: RunConfig) -> pd.DataFrame:
    """Return the sum of IoU and the number of objects, by prompt and image or group."""
    table = read_objects(RunPaths(config).validation(main_checkpoint(config)), config.run_name)
    unit_of = assign_groups(map(str, table["image_id"].unique()), config.data.units)
    unit = table["image_id"].astype(str).map(unit_of)
    rows = table.assign(unit=unit, prompt=table["prompt"].astype(str))
    return rows.groupby(["prompt", "unit"], observed=True)["iou"].agg(["sum", "size"]).sort_index()


def _epochs(histories: dict[str, pd.DataFrame], members: dict[str, list[str]]) -> pd.DataFrame:
    frames = []
    for combination, names in members.items():
        for name in names:
            epochs = histories[name]
            if "val_box_iou" in epochs:
                rows = epochs[["epoch", "val_box_iou"]].rename(columns={"val_box_iou": "iou"})
                frames.append(rows.assign(combination=combination, variant=name))
    columns = ["epoch", "iou", "combination", "variant"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _cost(histories: dict[str, pd.DataFrame], members: dict[str, list[str]]) -> pd.DataFrame:
    rows = []
    for combination, names in members.items():
        minutes = [histories[name]["seconds"].sum() / 60 for name in names]
        rows.append({"combination": combination, "minutes": float(np.mean(minutes))})
    return pd.DataFrame(rows)


def _latency(
    configs: dict[str, RunConfig], members: dict[str, list[str]]
) -> dict[str, list[float]]:
    """Return a column latency_ms if the size of the student varies, from the cost of variants."""
    known: dict[tuple[object, ...], float] = {}
    for config in configs.values():
        costs = read_costs(RunPaths(config).cost)
        if costs is not None:
            student = costs[costs["checkpoint"] == START]
            known[student_size(config)] = student[["encoder_ms", "decoder_ms"]].to_numpy().sum()
    sizes = [student_size(configs[names[0]]) for names in members.values()]
    if len(known) < 2:
        return {}
    return {"latency_ms": [known.get(size, np.nan) for size in sizes]}


def _baselines(configs: Iterable[RunConfig]) -> dict[tuple[str, str], float]:
    """Return mean IoU of the baselines whose tables the variants have, by name and prompt."""
    found: dict[tuple[str, str], float] = {}
    for config in configs:
        for name in baselines(config):
            path = RunPaths(config).validation(name)
            if path.is_file():
                means = read_objects(path, name).groupby("prompt", observed=True)["iou"].mean()
                for prompt, mean in means.items():
                    found.setdefault((name, str(prompt)), float(mean))
    return found
