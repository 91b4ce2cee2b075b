"""Report data of several runs on the same data set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from mobile_sam.config.run import RunConfig
from mobile_sam.paths import RunPaths
from mobile_sam.report.inputs.from_run import (
    main_checkpoint,
    read_run_times,
    read_training,
    read_versions,
    run_checkpoints,
    settings_json,
)
from mobile_sam.report.inputs.reading import (
    concat_objects,
    read_average_precision,
    read_costs,
    read_data,
    read_objects,
    read_sweeps,
    read_times,
)
from mobile_sam.report.inputs.report_data import Checkpoint, Origin, ReportData, Training
from mobile_sam.system.errors import ConfigError

_ROWS = ["prompt", "image_id", "segment_id"]


@dataclass(frozen=True)
class _Read:
    """Checkpoint of a run, and its table."""

    run: str
    checkpoint: Checkpoint
    objects: pd.DataFrame


def read_runs(configs: Sequence[RunConfig]) -> ReportData:
    """Read the final weights of each run, named after the run, and the checkpoints they share.

    The filled box, start, teachers and compared checkpoints appear once if they have the same
    results in all runs, otherwise as `<name> of <run>`. The page is about the best run. Raises
    ConfigError unless there are at least two runs on one data set.
    """
    _check(configs)
    shared, finals = _read(configs)
    best = _best(finals)
    rivals = [read.checkpoint.name for read in finals if read.checkpoint.name != best]
    reads = [*(r for r in shared if r.checkpoint.kind in {"baseline", "start"}), *finals]
    reads += [r for r in shared if r.checkpoint.kind not in {"baseline", "start"}]
    checkpoints = tuple(read.checkpoint for read in reads)
    others = [(best, r.checkpoint.name) for r in shared]
    starts = [r.checkpoint.name for r in shared if r.checkpoint.kind == "start"]
    first = configs[0]
    tables = {checkpoint.name: checkpoint.table for checkpoint in checkpoints}
    return ReportData(
        title=f"{first.project_name} / {', '.join(config.run_name for config in configs)}",
        checkpoints=checkpoints,
        main=best,
        pairs=tuple(
            dict.fromkeys(
                [(best, rival) for rival in rivals]
                + others
                + [(rival, start) for rival in rivals for start in starts]
            )
        ),
        steps=tuple((best, rival) for rival in rivals),
        worse=f"Images where another run is better than {best}",
        objects=concat_objects([read.objects for read in reads]),
        sweeps=read_sweeps(tables),
        mask_threshold=first.mask_threshold,
        examples=first.report_examples,
        precision=read_average_precision(tables),
        costs=_costs(configs, checkpoints),
        training=_training(configs),
        data=read_data(RunPaths(first).index),
        groups=first.data.units,
        origin=_origin(configs),
    )


def _check(configs: Sequence[RunConfig]) -> None:
    names = [config.run_name for config in configs]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"runs {', '.join(names)}: name at least two different runs to compare")
    for config in configs[1:]:
        for key, first, other in (
            ("data set", RunPaths(configs[0]).dataset, RunPaths(config).dataset),
            ("mask_threshold", configs[0].mask_threshold, config.mask_threshold),
        ):
            if first != other:
                raise ConfigError(
                    f"runs {names[0]} and {config.run_name} differ in {key} ({first}, {other}); "
                    "results are comparable only if it is the same"
                )


def _read(configs: Sequence[RunConfig]) -> tuple[list[_Read], list[_Read]]:
    """Return the checkpoints besides the stages of the runs, and their final weights."""
    shared: dict[str, list[_Read]] = {}
    finals = []
    for config in configs:
        for checkpoint in run_checkpoints(config):
            if checkpoint.name == main_checkpoint(config):
                description = f"the final weights of the run: {checkpoint.name}"
                named = Checkpoint(config.run_name, "stage", description, checkpoint.table)
                table = read_objects(checkpoint.table, config.run_name)
                finals.append(_Read(config.run_name, named, table))
            elif checkpoint.kind not in {"stage", "best"}:
                read = _Read(
                    config.run_name, checkpoint, read_objects(checkpoint.table, checkpoint.name)
                )
                shared.setdefault(checkpoint.name, []).append(read)
    return [read for reads in shared.values() for read in _merged(reads)], finals


def _merged(reads: list[_Read]) -> list[_Read]:
    """Return the one with most prompts if all runs have the same results, otherwise one per run."""
    if all(_same(reads[0].objects, read.objects) for read in reads[1:]):
        return [max(reads, key=lambda read: len(read.objects))]
    renamed = []
    for read in reads:
        name = f"{read.checkpoint.name} of {read.run}"
        objects = read.objects.assign(checkpoint=pd.Categorical([name] * len(read.objects)))
        renamed.append(_Read(read.run, replace(read.checkpoint, name=name), objects))
    return renamed


def _same(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Return whether two tables have the same results for the prompts that are in both."""
    common = set(first["prompt"].unique()) & set(second["prompt"].unique())
    tables = [t[t["prompt"].isin(common)].reset_index(drop=True) for t in (first, second)]
    names = all(tables[0][c].astype(str).equals(tables[1][c].astype(str)) for c in _ROWS)
    return bool(common) and names and tables[0]["iou"].equals(tables[1]["iou"])


def _best(finals: list[_Read]) -> str:
    """Return the run with the highest mean IoU with box prompts, or with its first prompt."""

    def mean(read: _Read) -> float:
        boxes = read.objects[read.objects["prompt"] == "box"]
        return float((boxes if len(boxes) else read.objects)["iou"].mean())

    return max(finals, key=mean).checkpoint.name


def _costs(configs: Sequence[RunConfig], checkpoints: Sequence[Checkpoint]) -> pd.DataFrame | None:
    """Return the costs of all runs, by the names of the comparison."""
    frames = []
    for config in configs:
        costs = read_costs(RunPaths(config).cost)
        if costs is None:
            continue
        final = main_checkpoint(config)
        source = final if final in set(costs["checkpoint"]) else "start"
        frames.append(costs[costs["checkpoint"] == source].assign(checkpoint=config.run_name))
        run_costs = costs.copy()
        names_by_run = [f"{name} of {config.run_name}" for name in costs["checkpoint"]]
        names = {checkpoint.name for checkpoint in checkpoints}
        run_costs["checkpoint"] = [
            name_by_run if name_by_run in names else name
            for name, name_by_run in zip(costs["checkpoint"], names_by_run, strict=True)
        ]
        frames.append(run_costs)
    if not frames:
        return None
    return pd.concat(frames, ignore_index=True).drop_duplicates("checkpoint")


def _training(configs: Sequence[RunConfig]) -> Training:
    parts = [read_training(config) for config in configs]
    epochs = pd.concat([part.epochs for part in parts], ignore_index=True)
    return Training(epochs, pd.concat([part.stages for part in parts], ignore_index=True))


def _origin(configs: Sequence[RunConfig]) -> Origin:
    versions: dict[str, str] = {}
    for config in configs:
        run_versions = read_versions(config).items()
        versions[config.run_name] = ", ".join(f"{name} {value}" for name, value in run_versions)
    settings = {config.run_name: settings_json(config) for config in configs}
    times = [read_times(RunPaths(configs[0]).shared_logs)]
    for config in configs:
        run_times = read_run_times(config)
        times.append(run_times.assign(rule=[f"{config.run_name}: {r}" for r in run_times["rule"]]))
    return Origin(versions, settings, pd.concat(times, ignore_index=True))
