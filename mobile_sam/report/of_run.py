"""What one run measured."""

import json
from itertools import pairwise
from typing import get_args

import pandas as pd

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.data.summary import summarise
from mobile_sam.evaluation.tables import kept_about
from mobile_sam.layout import (
    BOX_FILLED,
    START,
    RunPaths,
    compared,
    exported,
    stage_checkpoint,
    trained,
    validated,
)
from mobile_sam.options import Kept
from mobile_sam.report.measured import Kind, Measured, Origin, Training, What
from mobile_sam.report.reading import (
    joined,
    read_costs,
    read_csv,
    read_objects,
    read_precision,
    read_sweep,
    read_times,
)
from mobile_sam.report.words import DASH
from mobile_sam.schedule import normalise
from mobile_sam.stage import Stage
from mobile_sam.teachers import named_teachers


def measured_run(config: RunConfig) -> Measured:
    """Read all that a run left. Raises UserError for what is missing but should be there."""
    whats, paths = whats_of(config), RunPaths(config)
    main = main_of(config)
    steps = _steps(config)
    return Measured(
        title=f"{config.project_name} / {config.run_name}",
        whats=whats,
        main=main,
        pairs=_pairs(whats, steps, main),
        steps=steps,
        worse="Where a stage made it worse",
        chain=True,
        objects=joined([read_objects(what.table, what.name) for what in whats]),
        sweeps=pd.concat([read_sweep(w.table, w.name) for w in whats], ignore_index=True),
        mask_threshold=config.mask_threshold,
        examples=config.report_examples,
        precision=read_precision({what.name: what.table for what in whats}),
        costs=read_costs(paths.cost),
        training=training_of(config),
        data=summarise(paths.index),
        origin=Origin(
            versions_of(config),
            {config.run_name: settings_of(config)},
            read_times([paths.shared_logs, paths.benchmarks]),
        ),
    )


def whats_of(config: RunConfig) -> tuple[What, ...]:
    """What the run validates, in order, and what each is.

    The best epoch of a stage is there where it is not the last one.
    """
    start = f"{config.checkpoint or 'random weights'} ({config.model_type})"
    found: dict[str, tuple[Kind, str]] = {
        BOX_FILLED: ("baseline", "the box itself as the mask: what takes no model"),
        START: ("start", f"the student before training: {start}"),
    }
    once = {s.directory for s in normalise(config) if _ends_in_its_best(config, s)}
    for name, (stage, kept) in trained(config).items():
        if kept == "last":
            also = " and the best" if stage.directory in once else ""
            found[name] = ("stage", f"after epoch {stage.end_epoch}, the last{also} of the stage")
        elif stage.directory not in once:
            found[name] = ("best", f"after the best epoch of stage {stage.directory}")
    for name, teacher in named_teachers(config).items():
        words = f"{teacher.teacher_checkpoint} ({teacher.teacher_model_type})"
        found[name] = ("teacher", words)
    for name, weights in compared(config).items():
        found[name] = ("compared", f"for comparison: {weights}")
    return tuple(
        What(name, *found[name], RunPaths(config).validation(name))
        for name in validated(config)
        if name in found
    )


def main_of(config: RunConfig) -> str:
    """What the run exports, by the name it has in `whats_of`."""
    last, main = normalise(config)[-1], exported(config)
    return last.directory if _ends_in_its_best(config, last) else main


def _ends_in_its_best(config: RunConfig, stage: Stage) -> bool:
    """Whether the last and the best epoch of a stage are one: their weights are the same."""
    paths = RunPaths(config)
    if stage_checkpoint(stage, "best") not in trained(config):
        return False
    last, best = (
        kept_about(paths.validation(stage_checkpoint(stage, kept))).get("weights")
        for kept in get_args(Kept)
    )
    return last is not None and last == best


def training_of(config: RunConfig) -> Training:
    """Epochs and stages of a run."""
    epochs = _epochs(config)
    return Training(epochs, _stages(config, epochs))


def versions_of(config: RunConfig) -> dict[str, str]:
    """Versions and commit of what trained the last stage."""
    from mobile_sam.training import checkpoint  # no other page of the report needs torch

    last = normalise(config)[-1]
    return checkpoint.load(RunPaths(config).checkpoint(last))["provenance"]


def settings_of(config: RunConfig) -> str:
    """All settings as JSON."""
    return json.dumps(config.model_dump(mode="json", exclude={"schema_file"}), indent=2)


def _steps(config: RunConfig) -> tuple[tuple[str, str], ...]:
    """Each stage with what it began from in its plain form, the start first."""
    names = [START, *(stage.directory for stage in normalise(config))]
    return tuple((after, before) for before, after in pairwise(names))


def _pairs(
    whats: tuple[What, ...], steps: tuple[tuple[str, str], ...], main: str
) -> tuple[tuple[str, str], ...]:
    """Each stage against the start and the one before; the main one against all that is no stage.

    A best epoch is compared with the last epoch of its stage.
    """
    pairs = [pair for what, before in steps for pair in ((what, START), (what, before))]
    bests = [what.name for what in whats if what.kind == "best"]
    pairs += [(best, best.removesuffix("_best")) for best in bests]
    others = [what.name for what in whats if what.kind in {"baseline", "teacher", "compared"}]
    pairs += [(main, other) for other in [START, *others]]
    return tuple(dict.fromkeys(pairs))


def _epochs(config: RunConfig) -> pd.DataFrame:
    frames = []
    for stage in normalise(config):
        path = RunPaths(config).metrics(stage)
        if not path.is_file():
            raise ConfigError(f"{path}: missing; train stage {stage.directory} first")
        found = read_csv(path, ("epoch", "seconds"), "train the stage again")
        frames.append(found.assign(stage=stage.directory))
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
