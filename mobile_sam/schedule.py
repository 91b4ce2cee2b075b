"""The stages of a run: its schedule normalised, scaled, and reduced to what training depends on."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mobile_sam.config import ConfigError, RunConfig, affects
from mobile_sam.options import LossWeights, StageEntry
from mobile_sam.stage import Stage, check_stage
from mobile_sam.teachers import projections


def normalise(config: RunConfig, source: str = "") -> tuple[Stage, ...]:
    """Contiguous stages that cover `[0, num_epochs)`.

    Epochs without an entry become a stage with the run's own settings; nothing is carried over
    from the entry before. Raises ConfigError for overlapping, empty or out-of-range entries, for
    a stage without any loss, and for distillation without a teacher.
    """
    source = source or f"run {config.run_name!r}"
    order = sorted(range(len(config.stage_schedule)), key=_start_of(config.stage_schedule))
    entries: list[tuple[str, StageEntry]] = []
    epoch = 0
    for position in order:
        entry = config.stage_schedule[position]
        where = f"{source}: stage_schedule[{position}]"
        _check_interval(entry, config.num_epochs, where)
        if entry.start_epoch < epoch:
            raise ConfigError(
                f"{where}: start_epoch: {entry.start_epoch} lies in the entry before, "
                f"which ends at {epoch}; entries must not overlap"
            )
        if entry.start_epoch > epoch:
            entries.append((f"{source}: epochs {epoch} to {entry.start_epoch}", _gap(epoch, entry)))
        entries.append((where, entry))
        epoch = entry.end_epoch
    if epoch < config.num_epochs:
        tail = StageEntry(start_epoch=epoch, end_epoch=config.num_epochs)
        entries.append((f"{source}: epochs {epoch} to {config.num_epochs}", tail))
    stages = tuple(_stage(config, index, entry) for index, (_, entry) in enumerate(entries))
    for stage, (where, _) in zip(stages, entries, strict=True):
        check_stage(config, stage, where)
    return stages


def _start_of(entries: Sequence[StageEntry]) -> Any:
    return lambda position: entries[position].start_epoch


def _gap(epoch: int, following: StageEntry) -> StageEntry:
    return StageEntry(start_epoch=epoch, end_epoch=following.start_epoch)


def _check_interval(entry: StageEntry, num_epochs: int, where: str) -> None:
    if entry.end_epoch <= entry.start_epoch:
        raise ConfigError(
            f"{where}: end_epoch: {entry.end_epoch} is not after start_epoch {entry.start_epoch}"
        )
    if entry.end_epoch > num_epochs:
        raise ConfigError(
            f"{where}: end_epoch: {entry.end_epoch} is past num_epochs {num_epochs}; "
            "raise num_epochs or end the stage earlier"
        )


def _stage(config: RunConfig, index: int, entry: StageEntry) -> Stage:
    weights = config.loss_weights.model_dump()
    if entry.loss_weights is not None:
        weights |= entry.loss_weights.model_dump(exclude_none=True)
    distillation = config.use_distill if entry.distillation is None else entry.distillation
    supervised = any(weights.values())
    name = "distill" if not supervised else "distill_finetune" if distillation else "finetune"
    return Stage(
        index=index,
        name=entry.name or name,
        start_epoch=entry.start_epoch,
        end_epoch=entry.end_epoch,
        distillation=distillation,
        lambda_coef=config.lambda_coef if entry.lambda_coef is None else entry.lambda_coef,
        loss_weights=LossWeights(**weights),
        learning_rate=entry.learning_rate or config.learning_rate,
        freeze=entry.freeze or config.freeze,
        prompts=entry.prompts or config.prompts,
        prompt_rounds=entry.prompt_rounds or config.prompt_rounds,
        augment=entry.augment or config.augment,
        distill_losses=entry.distill_losses or config.distill_losses,
        clicks=entry.clicks or config.clicks,
        start_from=entry.start_from or config.start_from,
    )


def scale(schedule: list[dict[str, Any]], old: int, new: int, source: str) -> list[dict[str, Any]]:
    """The schedule of `old` epochs stretched or shrunk to `new`; each stage keeps an epoch."""
    bounds = sorted(
        {0, old} | {entry[key] for entry in schedule for key in ("start_epoch", "end_epoch")}
    )
    if len(bounds) - 1 > new:
        raise ConfigError(
            f"{source}: num_epochs: {new} is too few for {len(bounds) - 1} stages; "
            "each needs at least one epoch"
        )
    scaled = {0: 0}
    for before, bound in pairwise(bounds):
        scaled[bound] = max(round(bound * new / old), scaled[before] + 1)
    for left, bound in enumerate(reversed(bounds)):
        scaled[bound] = min(scaled[bound], new - left)
    return [
        entry
        | {"start_epoch": scaled[entry["start_epoch"]], "end_epoch": scaled[entry["end_epoch"]]}
        for entry in schedule
    ]


def canonical(config: RunConfig, stage: Stage) -> str:
    """Sorted-key JSON of exactly the settings that training `stage` depends on.

    Paths of inputs are left out: Snakemake compares those itself.
    """
    kept = {"training"}
    if stage.index == 0:
        kept.add("start")
    if stage.distillation or (stage.index == 0 and config.decoder_from_teacher):
        kept.add("teacher")
    dumped = config.model_dump()
    settings = {key: value for key, value in dumped.items() if affects(key) in kept}
    settings["stage"] = stage.settings
    if config.lr_scheduler_span == "run":
        settings["num_epochs"] = config.num_epochs
    if any_distillation(config):
        # One shape for the learner of all stages.
        settings["projections"] = projections(config)
    return json.dumps(settings, sort_keys=True)


def learns_without_masks(config: RunConfig, stage: Stage) -> bool:
    """Whether images without masks take part in a stage."""
    return stage.distils and config.unlabelled_img_dir is not None


def any_distillation(config: RunConfig) -> bool:
    """Whether any stage of the run compares with a teacher."""
    return any(stage.distillation for stage in normalise(config))
