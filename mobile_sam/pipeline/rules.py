"""Rules of the workflow: their names, and their input files."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from mobile_sam.config.catalog import known_dataset
from mobile_sam.config.checkpoints import (
    BOX_FILLED,
    START,
    baselines,
    checkpoint_names,
    exported_checkpoint,
    stage_checkpoints,
)
from mobile_sam.config.load import Runs, Variants
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import needs_features, normalise, stage_at
from mobile_sam.config.stage import Stage
from mobile_sam.config.teachers import named_teachers, start_reference
from mobile_sam.paths import RunPaths, extra_checkpoints, halving_file
from mobile_sam.pipeline.fingerprints import student_size

Inputs = dict[str, list[Path]]  # by their names in the rule


class RuleNames:
    """Generator of unique names of rules.

    Characters that a name cannot contain become `_`. If two names are equal after that, the second
    gets a digest at its end, so that a prefix in a profile applies to both.
    """

    def __init__(self) -> None:
        self._taken: dict[str, tuple[str, ...]] = {}

    def __call__(self, *parts: object, of: object = "") -> str:
        """Return the name of a rule, made of `parts` in this order.

        of: distinguishes rules with equal parts, such as two data sets of one name.
        """
        key = (*map(str, parts), str(of))
        name = re.sub(r"\W", "_", "_".join(key[:-1]))
        if self._taken.setdefault(name, key) != key:
            name = f"{name}_{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]}"
            self._taken[name] = key
        return name


def dataset_inputs(paths: RunPaths) -> Inputs:
    """Return the manifests of images that the workflow draws or downloads.

    The images of a user have no manifest.
    """
    synthetic = [paths.synthetic_manifest] if paths.config.train_img_dir is None else []
    public = known_dataset(paths.config)
    return {"manifest": synthetic + ([public.manifest] if public else [])}


def teacher_inputs(paths: RunPaths) -> Inputs:
    """Return the weights of the first teacher; a teacher with random weights has no file."""
    return {"teacher": [paths.teacher_weights] if paths.teacher_weights else []}


def stage_inputs(paths: RunPaths, stage: Stage) -> Inputs:
    """Return the inputs of a training stage, except teacher features.

    start: the checkpoint of the stage before; for the first stage, the weights of the student.
    teachers: weights of all teachers if the stage distils. With `decoder_from_teacher`, every stage
        reads the weights of the first teacher, because it builds the model before it loads weights.
    """
    config = paths.config
    if stage.index == 0:
        start = [paths.start_weights] if paths.start_weights else []
    else:
        start = [paths.checkpoint(normalise(config)[stage.index - 1], stage.start_from)]
    teachers: list[Path] = []
    if stage.distillation:
        teachers = [t.teacher_weights for t in paths.teachers if t.teacher_weights]
    elif config.decoder_from_teacher:
        teachers = teacher_inputs(paths)["teacher"]
    return {"index": [paths.index], "start": start, "teachers": teachers}


def stages_of_runs(runs: Iterable[RunPaths]) -> dict[Path, tuple[RunPaths, Stage]]:
    """Return each stage of the runs, by its directory, with the first run that has it."""
    stages: dict[Path, tuple[RunPaths, Stage]] = {}
    for paths in runs:
        for stage in normalise(paths.config):
            stages.setdefault(paths.stage(stage), (paths, stage))
    return stages


def start_stages(runs: Runs) -> dict[Path, tuple[RunPaths, Stage]]:
    """Return the stages from which runs start, with their runs, by the file of their weights."""
    found: dict[Path, tuple[RunPaths, Stage]] = {}
    for config in runs.all:
        run, directory = start_reference(config)
        if run is not None and directory:
            paths = RunPaths(runs[run])
            stage = next(s for s in normalise(paths.config) if s.directory == directory)
            found[paths.stage_weights(stage)] = paths, stage
    return found


def stage_features(paths: RunPaths, stage: Stage) -> list[Path]:
    """Return the mark of the teacher features that a stage reads; none if it reads no features."""
    reads_features = stage.distillation and needs_features(paths.config)
    return [paths.features_ready(stage)] if reads_features else []


def checkpoint_inputs(paths: RunPaths, names: Collection[str]) -> dict[str, Inputs]:
    """Return the inputs of the validation of checkpoints of a run, by their names in tables."""
    config = paths.config
    teacher = teacher_inputs(paths)["teacher"] if config.decoder_from_teacher else []
    start = [paths.start_weights] if paths.start_weights else []
    weights = {BOX_FILLED: [], START: start + teacher}
    for name, (stage, kind) in stage_checkpoints(config).items():
        weights[name] = [paths.checkpoint(stage, kind)]
        # If the best epoch is the last one, its table exists and is not measured again.
        if kind == "best" and stage.directory in names:
            weights[name].append(paths.validation(stage.directory))
    for name, teacher_config in named_teachers(config).items():
        weights[name] = teacher_inputs(RunPaths(teacher_config))["teacher"]
    weights |= {name: [path] for name, path in extra_checkpoints(config).items()}
    return {name: {"index": [paths.index], "weights": weights[name]} for name in names}


def report_inputs(paths: RunPaths) -> Inputs:
    """Return the tables from which the report of a run is made."""
    config = paths.config
    names = checkpoint_names(config)
    return {
        "index": [paths.index],
        "validation": [paths.validation(name) for name in names],
        "metrics": [paths.metrics(stage) for stage in normalise(config)],
        "average_precision": [paths.average_precision(name) for name in with_detections(config)],
        "cost": [paths.cost] if config.benchmark_repeats else [],
    }


def variant_checkpoints(runs: Runs) -> dict[str, list[str]]:
    """Return the checkpoints that are validated of each variant, by the name of its run.

    These are its final weights, and all baselines for the first variant with each data set.
    """
    names: dict[str, list[str]] = {}
    for group in runs.variants:
        datasets: set[Path] = set()
        for config in map(runs.__getitem__, group.values):
            names[config.run_name] = [exported_checkpoint(config)]
            dataset = RunPaths(config).dataset
            if dataset not in datasets:
                datasets.add(dataset)
                names[config.run_name] += baselines(config)
    return names


def cost_variants(runs: Runs, group: Variants) -> list[str]:
    """Return a variant for each size of student, whose cost is measured; none if all are equal."""
    sizes: dict[tuple[object, ...], str] = {}
    for config in map(runs.__getitem__, group.values):
        if config.benchmark_repeats:
            sizes.setdefault(student_size(config), config.run_name)
    return list(sizes.values()) if len(sizes) > 1 else []


def sweep_inputs(
    runs: Runs, group: Variants, measured: dict[str, list[str]], remaining: Collection[str]
) -> Inputs:
    """Return the files from which the report of the variants of a run is made.

    measured: as `variant_checkpoints` returns it. remaining: variants that are trained to the end.
    """
    paths = [RunPaths(runs[name]) for name in group.values]
    tables, metrics = [], []
    for each in paths:
        config, names = each.config, measured[each.config.run_name]
        if config.run_name in remaining:
            metrics += [each.metrics(stage) for stage in normalise(config)]
        else:
            names = [name for name in names if name != exported_checkpoint(config)]
        tables += [each.validation(name) for name in names]
    cost = [RunPaths(runs[name]).cost for name in cost_variants(runs, group)]
    return {"validation": tables, "metrics": metrics, "cost": cost}


def halvings(runs: Runs) -> list[Path]:
    """Return the files of all decisions of `sweep_stop`."""
    return [
        halving_file(RunPaths(group.config).sweep, epoch)
        for group in runs.variants
        for epoch in (group.config.sweep_stop.epochs if group.config.sweep_stop else ())
    ]


def rung_trainings(runs: Runs) -> dict[Path, tuple[RunPaths, Stage, int]]:
    """Return each training of a stage to an epoch of `sweep_stop`, by the file of its result."""
    found: dict[Path, tuple[RunPaths, Stage, int]] = {}
    for group in runs.variants:
        stop = group.config.sweep_stop
        for name in group.values:
            paths = RunPaths(runs[name])
            for epoch in stop.epochs if stop else ():
                stage = stage_at(paths.config, epoch)
                found.setdefault(paths.rung(stage, epoch), (paths, stage, epoch))
    return found


def stages_trained_whole(runs: Runs) -> Collection[Path]:
    """Return the stages that a run without `sweep_stop` trains."""
    halved = {name for group in runs.variants if group.config.sweep_stop for name in group.values}
    return stages_of_runs(RunPaths(each) for each in runs.all if each.run_name not in halved)


def rung_inputs(paths: RunPaths, stage: Stage, trained_whole: Collection[Path]) -> Inputs:
    """Return the inputs of the training of a stage to an epoch, except teacher features.

    If another run trains the whole stage, this waits, because two jobs cannot train it at once.
    """
    waits = paths.stage(stage) in trained_whole
    return stage_inputs(paths, stage) | {"whole": [paths.metrics(stage)] if waits else []}


def with_detections(config: RunConfig) -> list[str]:
    """Return the names of the checkpoints that segment a detector's boxes; none without boxes."""
    names = checkpoint_names(config) if config.detections else []
    return [name for name in names if name != BOX_FILLED]
