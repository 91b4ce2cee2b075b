"""Teachers of a run: each one as the settings of the run with that teacher alone."""

import re

from mobile_sam.config.architectures import feature_channels
from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import is_safe_name, level_name, teacher_level
from mobile_sam.system.errors import ConfigError

_FIRST = {
    "checkpoint": "teacher_checkpoint",
    "model_type": "teacher_model_type",
    "feature_level": "distill_feature_level",
}
_SHAPE_STEPS = 3000  # of `shapes` without a number


def teacher_configs(config: RunConfig) -> tuple[RunConfig, ...]:
    """Return the settings of the run with one teacher alone, for each of its teachers.

    The first keeps all other settings. Each further teacher has a feature store of its own, at the
    path derived from its settings.
    """
    if config.teacher_checkpoint is None:
        return ()
    others = [
        {
            "teacher_checkpoint": _numbered(teacher.checkpoint, number),
            "teacher_model_type": teacher.model_type,
            "distill_feature_level": teacher.feature_level,
            "train_img_dir_teacher_features": None,
            "decoder_from_teacher": False,
        }
        for number, teacher in enumerate(config.extra_teachers, start=1)
    ]
    return tuple(
        config.model_copy(update={**changes, "extra_teachers": ()}) for changes in ({}, *others)
    )


def teacher_shares(config: RunConfig) -> tuple[float, ...]:
    """Return the share of each teacher in the distillation loss; the sum is 1."""
    if config.teacher_checkpoint is None:
        return ()
    weights = [1.0, *(teacher.weight for teacher in config.extra_teachers)]
    return tuple(weight / sum(weights) for weight in weights)


def named_teachers(config: RunConfig) -> dict[str, RunConfig]:
    """Return `teacher_configs` by their names in tables: `teacher`, `teacher_2`, ..."""
    return {
        f"teacher_{count}" if count > 1 else "teacher": teacher
        for count, teacher in enumerate(teacher_configs(config), start=1)
    }


def teacher_key(number: int, part: str) -> str:
    """Return the key that sets a field of a teacher, for messages.

    number: 0 for the first, k + 1 for `extra_teachers[k]`. part: the field.
    """
    return f"extra_teachers[{number - 1}].{part}" if number else _FIRST[part]


def random_number(checkpoint: str | None) -> int | None:
    """Return 0 for `random`, k for `random:k` (another random teacher), None for weights."""
    match = re.fullmatch(r"random(?::(\d+))?", checkpoint or "")
    return int(match[1] or 0) if match else None


def start_reference(config: RunConfig) -> tuple[str | None, str]:
    """Return the run in `checkpoint`, and the stage if it names one: `run:<name>:<stage>`.

    The run is None for other checkpoints, the stage empty for the final weights. Raises ConfigError
    for a stage whose name could lead to another directory.
    """
    if not (config.checkpoint or "").startswith("run:"):
        return None, ""
    run, _, stage = (config.checkpoint or "").removeprefix("run:").partition(":")
    if stage and not is_safe_name(stage):
        raise ConfigError(
            f"checkpoint: {config.checkpoint!r}: {stage!r} is not the name of a stage; give "
            "run:<name>:<stage>"
        )
    return run, stage


def shape_steps(checkpoint: str | None) -> int | None:
    """Return the steps of `shapes` or `shapes:<steps>`; None for other weights."""
    match = re.fullmatch(r"shapes(?::([1-9][0-9]*))?", checkpoint or "")
    return int(match[1] or _SHAPE_STEPS) if match else None


def random_seed(config: RunConfig) -> int:
    """Return the seed of the first teacher, if it is random.

    It differs from the student's seed; otherwise equal architectures would be equal models.
    """
    return config.seed + 1 + (random_number(config.teacher_checkpoint) or 0)


def projections(config: RunConfig) -> dict[str, int]:
    """Return the channels to which the student's embedding is projected, for each teacher block.

    Keys are the names of blocks in batches. A teacher's neck has as many channels as the student's
    and needs no projection.
    """
    return {
        teacher_level(number, level_name(level)): feature_channels(
            teacher.teacher_model_type or "", level
        )
        for number, teacher in enumerate(teacher_configs(config))
        for level in teacher.distill_levels
        if level != "neck"
    }


def _numbered(checkpoint: str, number: int) -> str:
    # Two random teachers of one architecture would be the same model.
    return f"random:{number}" if checkpoint == "random" else checkpoint
