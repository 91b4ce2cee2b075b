"""Validation of settings; an error is one line that names each wrong key and its value."""

import json
import re
from typing import Any

from pydantic import ValidationError

from mobile_sam.config.architectures import architectures, is_architecture
from mobile_sam.config.renames import with_new_names
from mobile_sam.config.run import DIRECTORY_KEYS, RunConfig
from mobile_sam.config.teachers import shape_steps, teacher_key
from mobile_sam.system.errors import ConfigError


def parse_config(settings: dict[str, Any], source: str) -> RunConfig:
    """Validate `settings`. source: the file or option that they come from, for messages.

    Raises ConfigError, which lists every wrong key with its value.
    """
    try:
        config = RunConfig.model_validate(with_new_names(settings, source))
    except ValidationError as error:
        raise ConfigError(f"{source}: {describe_errors(error)}") from None
    _check_combination(config, source)
    return config


def describe_errors(error: ValidationError) -> str:
    """Return one line for all errors, each with key, problem and value."""
    lines = []
    for item in error.errors():
        # Pydantic adds names of validators and union members, which are not parts of the key.
        parts = (str(part) for part in item["loc"])
        key = ".".join(
            part for part in parts if not re.match(r"function-|constrained-|literal\[", part)
        )
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}; the keys are listed in configs/README.md")
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {message} (it is {json.dumps(item['input'], default=str)})")
    return "; ".join(lines)


def _check_combination(config: RunConfig, source: str) -> None:
    if config.img_size % 64:
        raise ConfigError(
            f"{source}: img_size: {config.img_size} is not a multiple of 64; "
            f"set it to {round(config.img_size / 64) * 64 or 64}"
        )
    names = {key: getattr(config, key) for key in ("model_type", "teacher_model_type")}
    for number, teacher in enumerate(config.extra_teachers, start=1):
        names[teacher_key(number, "model_type")] = teacher.model_type
    for key, name in names.items():
        if name is not None and not is_architecture(name):
            known = ", ".join([*sorted(architectures()), "timm/<name>"])
            raise ConfigError(f"{source}: {key}: {name!r} is unknown; known are {known}")
    given = [getattr(config, key) is not None for key in DIRECTORY_KEYS]
    if given not in ([True] * 4, [True, True, False, False], [False] * 4):
        raise ConfigError(
            f"{source}: {', '.join(DIRECTORY_KEYS)} go together: set all four, or the two of "
            "training with `data.val_fraction`, or none with `synthetic`"
        )
    if not any(given) and config.synthetic is None:
        raise ConfigError(f"{source}: train_img_dir is null; set it, or `synthetic`")
    if (config.folds or config.data.fold) and given != [True, True, False, False]:
        key = "folds" if config.folds else "data.fold"
        raise ConfigError(
            f"{source}: {key}: parts of the training images take turns in validation, so set "
            "val_img_dir and val_mask_dir to null, and the directories of training"
        )
    _check_epoch_validation(config, source)
    if config.data.tile is not None and config.detections is not None:
        raise ConfigError(
            f"{source}: detections: boxes of a detector are in whole images, and data.tile cuts "
            "them; set one of them to null"
        )
    if config.extra_teachers and config.teacher_checkpoint is None:
        raise ConfigError(
            f"{source}: extra_teachers: there is no first teacher; set teacher_checkpoint"
        )
    if config.teacher_checkpoint == "random" and config.teacher_model_type is None:
        raise ConfigError(
            f"{source}: teacher_checkpoint: 'random' needs a teacher_model_type; set it"
        )
    _check_start(config, source)
    _check_step(config, source)


def _check_epoch_validation(config: RunConfig, source: str) -> None:
    """Raise ConfigError for keys that need the validation IoU of epochs, if it is not measured."""
    if config.sweep_stop is not None and config.sweep is None:
        raise ConfigError(
            f"{source}: sweep_stop compares the combinations of sweep, which is null; set sweep, "
            "or sweep_stop to null"
        )
    if config.val_images > 0:
        return
    if config.sweep_stop is not None:
        raise ConfigError(
            f"{source}: sweep_stop needs val_images > 0; raise val_images, or set "
            "sweep_stop to null"
        )
    if config.early_stopping is not None:
        raise ConfigError(
            f"{source}: early_stopping: {config.early_stopping} needs val_images > 0; raise "
            "val_images, or set early_stopping to null"
        )
    if config.selection_metric != "mean":
        raise ConfigError(
            f"{source}: selection_metric: {config.selection_metric!r} needs val_images > 0; raise "
            'val_images, or set selection_metric to "mean"'
        )
    if config.use_checkpoint == "best":
        raise ConfigError(
            f'{source}: use_checkpoint: "best", but val_images: 0, so no epoch is known to be the '
            'best; raise val_images, or set use_checkpoint to "last"'
        )


def _check_start(config: RunConfig, source: str) -> None:
    """Raise ConfigError for keys of the initial weights that contradict each other."""
    if config.decoder_from_teacher and config.teacher_checkpoint is None:
        raise ConfigError(
            f"{source}: decoder_from_teacher: true needs a teacher_checkpoint; set it, or set "
            "decoder_from_teacher to false"
        )
    if config.decoder_from_teacher and shape_steps(config.checkpoint):
        raise ConfigError(
            f"{source}: checkpoint: {config.checkpoint!r} teaches the decoder, which "
            "decoder_from_teacher: true replaces; set checkpoint to null, or decoder_from_teacher "
            "to false"
        )


def _check_step(config: RunConfig, source: str) -> None:
    """Raise ConfigError for keys of a training step that contradict each other."""
    if (config.warmup_steps is None) == (config.warmup_fraction is None):
        raise ConfigError(
            f"{source}: warmup_steps: {json.dumps(config.warmup_steps)} and warmup_fraction: "
            f"{json.dumps(config.warmup_fraction)}; set one of them, and the other one to null"
        )
    if config.sync_batchnorm and config.freeze_batchnorm:
        raise ConfigError(
            f"{source}: sync_batchnorm: true, but with freeze_batchnorm: true there are no "
            "statistics to share; set one of them to false"
        )
    if config.labelled_fraction is not None:
        fraction = f"{source}: labelled_fraction: {config.labelled_fraction}"
        if config.unlabelled_img_dir is None:
            raise ConfigError(
                f"{fraction} needs an unlabelled_img_dir; set it, or set labelled_fraction to null"
            )
        if config.batch_size == 1:
            raise ConfigError(
                f"{fraction} needs a batch_size of at least 2, for images with and without masks"
            )
