"""What several runs over the same data set measured, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.data.summary import summarise
from mobile_sam.layout import RunPaths
from mobile_sam.report.measured import Measured, Origin, Training, What
from mobile_sam.report.of_run import (
    main_of,
    settings_of,
    training_of,
    versions_of,
    whats_of,
)
from mobile_sam.report.reading import (
    joined,
    read_costs,
    read_objects,
    read_precision,
    read_sweep,
    read_times,
)

_ROWS = ["prompt", "image_id", "segment_id"]


@dataclass(frozen=True)
class _Read:
    """A what of a run, and its table."""

    run: str
    what: What
    objects: pd.DataFrame


def measured_runs(configs: Sequence[RunConfig]) -> Measured:
    """The final weights of each run, called by the run's name, beside what all share.

    Box filled, start, teachers and compared checkpoints that measure the same in all runs are
    there once, others as `<name> of <run>`. The page is about the best run. Raises ConfigError
    unless there are two runs or more, of one data set.
    """
    _check(configs)
    shared, finals = _read(configs)
    best = _best(finals)
    rivals = [read.what.name for read in finals if read.what.name != best]
    reads = [*(r for r in shared if r.what.kind in {"baseline", "start"}), *finals]
    reads += [r for r in shared if r.what.kind not in {"baseline", "start"}]
    whats = tuple(read.what for read in reads)
    others = [(best, r.what.name) for r in shared]
    starts = [r.what.name for r in shared if r.what.kind == "start"]
    first = configs[0]
    return Measured(
        title=f"{first.project_name} / {', '.join(config.run_name for config in configs)}",
        whats=whats,
        main=best,
        pairs=tuple(
            dict.fromkeys(
                [(best, rival) for rival in rivals]
                + others
                + [(rival, start) for rival in rivals for start in starts]
            )
        ),
        steps=tuple((best, rival) for rival in rivals),
        worse=f"Where another run is better than {best}",
        objects=joined([read.objects for read in reads]),
        sweeps=pd.concat([read_sweep(w.table, w.name) for w in whats], ignore_index=True),
        mask_threshold=first.mask_threshold,
        examples=first.report_examples,
        precision=read_precision({what.name: what.table for what in whats}),
        costs=_costs(configs, whats),
        training=_training(configs),
        data=summarise(RunPaths(first).index),
        origin=_origin(configs),
    )


def _check(configs: Sequence[RunConfig]) -> None:
    names = [config.run_name for config in configs]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"runs {', '.join(names)}: name two different runs or more to compare")
    for config in configs[1:]:
        for key, first, other in (
            ("data set", RunPaths(configs[0]).dataset, RunPaths(config).dataset),
            ("mask_threshold", configs[0].mask_threshold, config.mask_threshold),
        ):
            if first != other:
                raise ConfigError(
                    f"runs {names[0]} and {config.run_name} have another {key} ({first}, {other}); "
                    "numbers compare only when it is the same"
                )


def _read(configs: Sequence[RunConfig]) -> tuple[list[_Read], list[_Read]]:
    """What runs share, and their final weights."""
    found: dict[str, list[_Read]] = {}
    finals = []
    for config in configs:
        for what in whats_of(config):
            if what.name == main_of(config):
                meaning = f"the final weights of the run: {what.name}"
                named = What(config.run_name, "stage", meaning, what.table)
                table = read_objects(what.table, config.run_name)
                finals.append(_Read(config.run_name, named, table))
            elif what.kind not in {"stage", "best"}:
                read = _Read(config.run_name, what, read_objects(what.table, what.name))
                found.setdefault(what.name, []).append(read)
    return [read for some in found.values() for read in _merged(some)], finals


def _merged(reads: list[_Read]) -> list[_Read]:
    """The one of most prompts for all runs when they measured the same, else one for each."""
    if all(_same(reads[0].objects, read.objects) for read in reads[1:]):
        return [max(reads, key=lambda read: len(read.objects))]
    renamed = []
    for read in reads:
        name = f"{read.what.name} of {read.run}"
        objects = read.objects.assign(checkpoint=pd.Categorical([name] * len(read.objects)))
        renamed.append(_Read(read.run, replace(read.what, name=name), objects))
    return renamed


def _same(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Whether two tables say the same of the prompts that are in both."""
    common = set(first["prompt"].unique()) & set(second["prompt"].unique())
    tables = [t[t["prompt"].isin(common)].reset_index(drop=True) for t in (first, second)]
    names = all(tables[0][c].astype(str).equals(tables[1][c].astype(str)) for c in _ROWS)
    return bool(common) and names and tables[0]["iou"].equals(tables[1]["iou"])


def _best(finals: list[_Read]) -> str:
    """The run with the highest mean IoU by box, or by its first prompt."""

    def mean(read: _Read) -> float:
        boxes = read.objects[read.objects["prompt"] == "box"]
        return float((boxes if len(boxes) else read.objects)["iou"].mean())

    return max(finals, key=mean).what.name


def _costs(configs: Sequence[RunConfig], whats: Sequence[What]) -> pd.DataFrame | None:
    """Costs of all runs, by the names that the comparison uses."""
    frames = []
    for config in configs:
        costs = read_costs(RunPaths(config).cost)
        if costs is None:
            continue
        final = main_of(config)
        source = final if final in set(costs["checkpoint"]) else "start"
        frames.append(costs[costs["checkpoint"] == source].assign(checkpoint=config.run_name))
        own = costs.copy()
        apart = [f"{name} of {config.run_name}" for name in costs["checkpoint"]]
        names = {what.name for what in whats}
        own["checkpoint"] = [
            there if there in names else name
            for name, there in zip(costs["checkpoint"], apart, strict=True)
        ]
        frames.append(own)
    if not frames:
        return None
    return pd.concat(frames, ignore_index=True).drop_duplicates("checkpoint")


def _training(configs: Sequence[RunConfig]) -> Training:
    parts = [training_of(config) for config in configs]
    epochs = pd.concat([part.epochs for part in parts], ignore_index=True)
    return Training(epochs, pd.concat([part.stages for part in parts], ignore_index=True))


def _origin(configs: Sequence[RunConfig]) -> Origin:
    versions: dict[str, str] = {}
    for config in configs:
        own = versions_of(config)
        versions[config.run_name] = ", ".join(f"{name} {value}" for name, value in own.items())
    settings = {config.run_name: settings_of(config) for config in configs}
    directories = [RunPaths(configs[0]).shared_logs]
    times = [read_times(directories)]
    for config in configs:
        own_times = read_times([RunPaths(config).benchmarks])
        times.append(own_times.assign(rule=[f"{config.run_name}: {r}" for r in own_times["rule"]]))
    return Origin(versions, settings, pd.concat(times, ignore_index=True))
