"""Report data of one run."""

import json
from itertools import pairwise
from typing import get_args

import pandas as pd

from mobile_sam.config.checkpoints import (
    BOX_FILLED,
    START,
    checkpoint_name,
    checkpoint_names,
    exported_checkpoint,
    stage_checkpoints,
)
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.config.sections import CheckpointKind
from mobile_sam.config.stage import Stage
from mobile_sam.config.teachers import named_teachers
from mobile_sam.evaluation.tables import read_metadata_or_empty
from mobile_sam.paths import RunPaths, extra_checkpoints
from mobile_sam.report.inputs.reading import (
    concat_objects,
    read_average_precision,
    read_costs,
    read_csv,
    read_data,
    read_objects,
    read_sweeps,
    read_times,
)
from mobile_sam.report.inputs.report_data import Checkpoint, Kind, Origin, ReportData, Training
from mobile_sam.report.labels import DASH, FILLED_BOX
from mobile_sam.system.errors import ConfigError


def read_run(config: RunConfig) -> ReportData:
    """Read all results of a run. Raises UserError if one is missing."""
    checkpoints, paths = run_checkpoints(config), RunPaths(config)
    main = main_checkpoint(config)
    steps = _steps(config)
    tables = {checkpoint.name: checkpoint.table for checkpoint in checkpoints}
    return ReportData(
        title=f"{config.project_name} / {config.run_name}",
        checkpoints=checkpoints,
        main=main,
        pairs=_pairs(checkpoints, steps, main),
        steps=steps,
        worse="Images where a stage reduced mean IoU",
        chain=True,
        objects=concat_objects([read_objects(path, name) for name, path in tables.items()]),
        sweeps=read_sweeps(tables),
        mask_threshold=config.mask_threshold,
        examples=config.report_examples,
        precision=read_average_precision(tables),
        costs=read_costs(paths.cost),
        training=read_training(config),
        data=read_data(paths.index),
        groups=config.data.units,
        origin=Origin(
            read_versions(config),
            {config.run_name: settings_json(config)},
            pd.concat([read_times(paths.shared_logs), read_run_times(config)], ignore_index=True),
        ),
    )


def run_checkpoints(config: RunConfig) -> tuple[Checkpoint, ...]:
    """Return the validated checkpoints of a run, in order.

    The best epoch of a stage is included if it is not the last one.
    """
    start = f"{config.checkpoint or 'random weights'} ({config.model_type})"
    if config.decoder_from_teacher:
        start += ", with the teacher's decoder"
    descriptions: dict[str, tuple[Kind, str]] = {
        BOX_FILLED: (
            "baseline",
            FILLED_BOX,
        ),
        START: ("start", f"the student before training: {start}"),
    }
    last_is_best = {s.directory for s in normalise(config) if _ends_in_its_best(config, s)}
    for name, (stage, kept) in stage_checkpoints(config).items():
        if kept == "last":
            also = " and the best" if stage.directory in last_is_best else ""
            descriptions[name] = (
                "stage",
                f"after epoch {stage.end_epoch}, the last{also} of the stage",
            )
        elif stage.directory not in last_is_best:
            descriptions[name] = ("best", f"after the best epoch of stage {stage.directory}")
    for name, teacher in named_teachers(config).items():
        text = f"{teacher.teacher_checkpoint} ({teacher.teacher_model_type})"
        descriptions[name] = ("teacher", text)
    for name, weights in extra_checkpoints(config).items():
        descriptions[name] = ("compared", f"for comparison: {weights}")
    return tuple(
        Checkpoint(name, *descriptions[name], RunPaths(config).validation(name))
        for name in checkpoint_names(config)
        if name in descriptions
    )


def main_checkpoint(config: RunConfig) -> str:
    """Return the checkpoint that the run exports, by its name in `run_checkpoints`."""
    last, main = normalise(config)[-1], exported_checkpoint(config)
    return last.directory if _ends_in_its_best(config, last) else main


def _ends_in_its_best(config: RunConfig, stage: Stage) -> bool:
    """Return whether the last and the best epoch of a stage have the same weights."""
    paths = RunPaths(config)
    if checkpoint_name(stage, "best") not in stage_checkpoints(config):
        return False
    last, best = (
        read_metadata_or_empty(paths.validation(checkpoint_name(stage, kept))).get("weights")
        for kept in get_args(CheckpointKind)
    )
    return last is not None and last == best


def read_run_times(config: RunConfig) -> pd.DataFrame:
    """Read the run times of a run's jobs, like `read_times`, and of the jobs of its stages."""
    paths = RunPaths(config)
    stages = [
        read_times(paths.stage(stage)).assign(rule=f"train_{stage.directory}")
        for stage in normalise(config)
    ]
    return pd.concat([*stages, read_times(paths.benchmarks)], ignore_index=True)


def read_training(config: RunConfig) -> Training:
    """Read the epochs and stages of a run."""
    epochs = _epochs(config)
    return Training(epochs, _stages(config, epochs))


def read_versions(config: RunConfig) -> dict[str, str]:
    """Read the versions and the commit that trained the last stage."""
    from mobile_sam.training import checkpoint  # no other page of the report needs torch

    last = normalise(config)[-1]
    return checkpoint.load(RunPaths(config).checkpoint(last))["provenance"]


def settings_json(config: RunConfig) -> str:
    """Return all settings as JSON."""
    return json.dumps(config.model_dump(mode="json", exclude={"schema_file"}), indent=2)


def _steps(config: RunConfig) -> tuple[tuple[str, str], ...]:
    """Return each stage with the one before it, starting with `start`."""
    names = [START, *(stage.directory for stage in normalise(config))]
    return tuple((after, before) for before, after in pairwise(names))


def _pairs(
    checkpoints: tuple[Checkpoint, ...], steps: tuple[tuple[str, str], ...], main: str
) -> tuple[tuple[str, str], ...]:
    """Return comparisons: each stage with the start and the previous one, the main one with others.

    A best epoch is compared with the last epoch of its stage.
    """
    pairs = [
        pair for checkpoint, before in steps for pair in ((checkpoint, START), (checkpoint, before))
    ]
    bests = [checkpoint.name for checkpoint in checkpoints if checkpoint.kind == "best"]
    pairs += [(best, best.removesuffix("_best")) for best in bests]
    others = [
        checkpoint.name
        for checkpoint in checkpoints
        if checkpoint.kind in {"baseline", "teacher", "compared"}
    ]
    pairs += [(main, other) for other in [START, *others]]
    return tuple(dict.fromkeys(pairs))


def _epochs(config: RunConfig) -> pd.DataFrame:
    frames = []
    for stage in normalise(config):
        path = RunPaths(config).metrics(stage)
        if not path.is_file():
            raise ConfigError(f"{path}: missing; train stage {stage.directory} first")
        metrics = read_csv(path, ("epoch", "seconds"), "train the stage again")
        frames.append(metrics.assign(stage=stage.directory))
    epochs = pd.concat(frames, ignore_index=True)
    epochs.insert(0, "run", config.run_name)
    return epochs


def _stages(config: RunConfig, epochs: pd.DataFrame) -> pd.DataFrame:
    minutes = epochs.groupby("stage", sort=False)["seconds"].sum() / 60
    rows = []
    for stage in normalise(config):
        weights = stage.loss_weights.model_dump()
        rows.append(
            {
                "stage": stage.directory,
                "run": config.run_name,
                "epochs": f"{stage.start_epoch + 1}{DASH}{stage.end_epoch}",
                "distillation": stage.lambda_coef if stage.distillation else None,
                **{name: weight or None for name, weight in weights.items()},
                "learning_rate": stage.learning_rate,
                "minutes": minutes[stage.directory],
            }
        )
    return pd.DataFrame(rows)
