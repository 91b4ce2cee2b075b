"""Stages of a run: its schedule, normalised and scaled, and the settings of their training."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mobile_sam.config.losses import FEATURE_LOSSES, PROMPT_LOSSES
from mobile_sam.config.renames import with_old_names
from mobile_sam.config.run import RunConfig, affects
from mobile_sam.config.stage import Stage, StageEntry, StageSettings
from mobile_sam.config.teachers import projections, teacher_configs, teacher_key
from mobile_sam.system.errors import ConfigError


def normalise(config: RunConfig, source: str = "") -> tuple[Stage, ...]:
    """Return contiguous stages that cover `[0, num_epochs)`.

    Epochs without an entry become a stage with the run's settings; nothing carries over from the
    entry before. Raises ConfigError for overlapping, empty or out-of-range entries, for
    a stage without any loss, for distillation without a teacher, and for keys of distillation
    without it.
    """
    source = source or f"run {config.run_name!r}"
    schedule = config.stage_schedule
    order = sorted(range(len(schedule)), key=lambda position: schedule[position].start_epoch)
    entries: list[tuple[str, StageEntry]] = []
    epoch = 0
    for position in order:
        entry = schedule[position]
        where = f"{source}: stage_schedule[{position}]"
        _check_interval(entry, config.num_epochs, where)
        if entry.start_epoch < epoch:
            raise ConfigError(
                f"{where}: start_epoch: {entry.start_epoch} lies in the entry before, "
                f"which ends at {epoch}; entries must not overlap"
            )
        if entry.start_epoch > epoch:
            gap = StageEntry(start_epoch=epoch, end_epoch=entry.start_epoch)
            entries.append((f"{source}: epochs {epoch} to {entry.start_epoch}", gap))
        entries.append((where, entry))
        epoch = entry.end_epoch
    if epoch < config.num_epochs:
        tail = StageEntry(start_epoch=epoch, end_epoch=config.num_epochs)
        entries.append((f"{source}: epochs {epoch} to {config.num_epochs}", tail))
    stages = tuple(_stage(config, index, entry) for index, (_, entry) in enumerate(entries))
    for stage, (where, _) in zip(stages, entries, strict=True):
        check_stage(config, stage, where)
    _check_use(config, stages, source)
    for stage, (where, entry) in zip(stages, entries, strict=True):
        if entry.changes.get("click_target") == "teacher":
            _check_use_of_clicks((stage,), where)
    return stages


def stage_at(config: RunConfig, epoch: int) -> Stage:
    """Return the stage in which the last of the first `epoch` epochs lies."""
    return next(s for s in normalise(config) if s.start_epoch < epoch <= s.end_epoch)


def _check_use(config: RunConfig, stages: tuple[Stage, ...], source: str) -> None:
    """Raise ConfigError for settings of the run that no stage uses."""
    if config.click_target == "teacher":
        _check_use_of_clicks(stages, source)
    if config.labelled_fraction and not any(learns_without_masks(config, s) for s in stages):
        raise ConfigError(
            f"{source}: labelled_fraction: {config.labelled_fraction}, but no stage learns from "
            "images without masks, because none distils; set it to null"
        )
    distilling = [stage for stage in stages if stage.distillation]
    if not distilling or any(stage.distill_losses.nonzero("features") for stage in distilling):
        return
    for number, teacher in enumerate(teacher_configs(config)):
        blocks = [level for level in teacher.distill_levels if level != "neck"]
        if blocks:
            raise ConfigError(
                f"{source}: {teacher_key(number, 'feature_level')}: features of block {blocks[0]} "
                f"are stored, but no stage compares them; give one of "
                f"{', '.join(FEATURE_LOSSES)} a weight in distill_losses, or set "
                'the level to "neck"'
            )


def _check_use_of_clicks(stages: Sequence[Stage], where: str) -> None:
    if not any(stage.click_target == "teacher" and stage.prompt_rounds > 1 for stage in stages):
        raise ConfigError(
            f'{where}: click_target: "teacher", but prompt_rounds: 1, and the first round has no '
            "clicks; raise prompt_rounds, or leave click_target out"
        )


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
    settings: dict[str, Any] = {key: getattr(config, key) for key in StageSettings.model_fields}
    settings |= entry.changes
    if "loss_weights" in entry.changes:
        weights = entry.changes["loss_weights"].model_dump(exclude_none=True)
        settings["loss_weights"] = config.loss_weights.model_copy(update=weights)
    distillation = config.use_distill if entry.distillation is None else entry.distillation
    supervised = settings["loss_weights"].nonzero()
    name = "distill" if not supervised else "distill_finetune" if distillation else "finetune"
    return Stage(
        index=index,
        name=entry.name or name,
        start_epoch=entry.start_epoch,
        end_epoch=entry.end_epoch,
        distillation=distillation,
        **settings,
    )


def check_stage(config: RunConfig, stage: Stage, where: str) -> None:
    """Raise ConfigError for a stage that trains nothing, or that needs what the run does not have.

    where: name of the stage, for messages.
    """
    if stage.distillation and config.teacher_checkpoint is None:
        raise ConfigError(
            f"{where}: distillation: true, but teacher_checkpoint is null; "
            "set it, or distillation to false"
        )
    if stage.distillation and stage.lambda_coef == 0:
        raise ConfigError(
            f"{where}: distillation: true, but lambda_coef: 0 disables it; set distillation to "
            "false, or raise lambda_coef"
        )
    if stage.distillation and not stage.distill_losses.nonzero():
        raise ConfigError(
            f"{where}: distillation: true, but all weights of distill_losses are 0; raise one, or "
            "set distillation to false"
        )
    if stage.prompt_distillation:
        _check_prompt_distillation(config, where)
    if (
        stage.click_target == "teacher"
        and stage.prompt_rounds > 1
        and not stage.prompt_distillation
    ):
        raise ConfigError(
            f'{where}: click_target: "teacher", but no teacher predicts masks in this stage; give '
            f"one of {', '.join(PROMPT_LOSSES)} a weight in distill_losses, or set click_target to "
            '"truth"'
        )
    if stage.index > 0 and stage.start_from == "best" and config.val_images == 0:
        raise ConfigError(
            f'{where}: start_from: "best", but val_images: 0, so no epoch of the stage before is '
            'known to be the best; raise val_images, or set start_from to "last"'
        )
    if not stage.distillation and not stage.supervised:
        raise ConfigError(
            f"{where}: loss_weights: all are 0, and the stage does not distil, so it trains "
            "nothing; give a loss a weight, or set distillation to true"
        )
    if stage.prompted and not any(stage.prompts.shares.values()):
        kinds = ", ".join(stage.prompts.shares)
        raise ConfigError(f"{where}: prompts: {kinds} are all 0; give one a share")
    if all(stage.freeze.model_dump().values()):
        raise ConfigError(
            f"{where}: freeze: all parts are frozen, so the stage trains nothing; set one to false"
        )
    if stage.freeze.image_encoder and not stage.prompted:
        raise ConfigError(
            f"{where}: freeze.image_encoder: true, but distillation of features trains nothing "
            "else; set it to false, or give one of loss_weights a weight"
        )
    if stage.distillation and config.teacher_features == "stored":
        _check_augment(config, stage, where)


def _check_prompt_distillation(config: RunConfig, where: str) -> None:
    """Raise ConfigError if losses on the teacher's masks lack the teacher's embedding."""
    for teacher in teacher_configs(config):
        if "neck" not in teacher.distill_levels:
            raise ConfigError(
                f"{where}: distill_losses: {', '.join(PROMPT_LOSSES)} need the teacher's "
                f'embedding; add "neck" to the level {teacher.distill_feature_level}'
            )


def _check_augment(config: RunConfig, stage: Stage, where: str) -> None:
    """Raise ConfigError for augmentations that do not fit stored features."""
    for key, is_stored, remedy in (
        ("scale", False, ""),
        ("crop", False, ""),
        ("flip", "hflip" in config.feature_views, 'feature_views to ["identity", "hflip"], or '),
    ):
        value = getattr(stage.augment, key)
        if value and not is_stored:
            views, disabled = json.dumps(config.feature_views), json.dumps(type(value)(0))
            raise ConfigError(
                f"{where}: augment.{key}: {json.dumps(value)}, but the stage compares with stored "
                f"teacher features, which exist for the views {views} only; set augment of this "
                f'stage\'s entry in stage_schedule to {{"{key}": {disabled}}}, or {remedy}'
                'teacher_features to "online"'
            )


def scale(schedule: list[dict[str, Any]], old: int, new: int, source: str) -> list[dict[str, Any]]:
    """Scale a schedule from `old` to `new` epochs; each stage keeps at least one epoch."""
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
    """Return exactly the settings that the training of `stage` depends on, as sorted JSON.

    Paths of inputs are left out, because Snakemake compares them itself.
    """
    keys = {key for key in RunConfig.model_fields if affects(key) == "training"}
    if stage.index == 0:
        keys |= {key for key in RunConfig.model_fields if affects(key) == "start"}
    if stage.distillation:
        keys |= {key for key in RunConfig.model_fields if affects(key) == "teacher"}
        if config.teacher_features == "online":
            keys.remove("feature_dtype")  # nothing is stored
    elif stage.index == 0 and config.decoder_from_teacher:
        keys |= {"teacher_checkpoint", "teacher_model_type"}
    settings = with_old_names(config.model_dump(include=keys))
    settings["stage"] = with_old_names(stage.settings)
    # Its default depends on the images per device; `devices` has no other effect on the weights.
    if config.batch_size != "auto":  # the size that `auto` chooses depends on the machine
        settings["freeze_batchnorm"] = config.keeps_batchnorm
    if stage.augment.changes_colours:
        settings["colours_change"] = "after resizing"  # in earlier versions, before it
    if config.lr_scheduler_span == "run":
        settings["num_epochs"] = config.num_epochs
    if learns_without_masks(config, stage):
        settings["labelled_fraction"] = config.labelled_fraction
    if any_distillation(config):
        # The training module has the same shape in all stages.
        settings["projections"] = projections(config)
    return json.dumps(settings, sort_keys=True)


def learns_without_masks(config: RunConfig, stage: Stage) -> bool:
    """Return whether a stage uses images without masks."""
    return stage.distillation and config.unlabelled_img_dir is not None


def any_distillation(config: RunConfig) -> bool:
    """Return whether any stage of the run distils."""
    return any(stage.distillation for stage in normalise(config))


def needs_features(config: RunConfig) -> bool:
    """Return whether the run reads stored teacher features."""
    return any_distillation(config) and config.teacher_features == "stored"
