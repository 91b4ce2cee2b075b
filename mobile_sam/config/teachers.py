"""The teachers of a run: for each the settings of the same run with that teacher alone."""

import re

from mobile_sam.architectures import feature_channels
from mobile_sam.config import RunConfig
from mobile_sam.options import level_name, teacher_level

_FIRST = {
    "checkpoint": "teacher_checkpoint",
    "model_type": "teacher_model_type",
    "feature_level": "distill_feature_level",
}


def teacher_configs(config: RunConfig) -> tuple[RunConfig, ...]:
    """The run as if it had one teacher, for each of its teachers; none for a run without.

    The first keeps all else; of the others each has its own store, in the derived place.
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
        for number, teacher in enumerate(config.more_teachers, start=1)
    ]
    return tuple(
        config.model_copy(update={**changes, "more_teachers": ()}) for changes in ({}, *others)
    )


def teacher_shares(config: RunConfig) -> tuple[float, ...]:
    """What each teacher counts in distillation, by its weight; they add up to 1."""
    if config.teacher_checkpoint is None:
        return ()
    weights = [1.0, *(teacher.weight for teacher in config.more_teachers)]
    return tuple(weight / sum(weights) for weight in weights)


def named_teachers(config: RunConfig) -> dict[str, RunConfig]:
    """`teacher_configs` by their names in tables: `teacher`, `teacher_2`, ..."""
    return {
        f"teacher_{count}" if count > 1 else "teacher": teacher
        for count, teacher in enumerate(teacher_configs(config), start=1)
    }


def teacher_key(number: int, part: str) -> str:
    """The key that sets a part of a teacher, for messages.

    number: 0 for the first, k + 1 for `more_teachers[k]`; part: a field of its entries.
    """
    return f"more_teachers[{number - 1}].{part}" if number else _FIRST[part]


def random_number(checkpoint: str | None) -> int | None:
    """0 for `random`, k for `random:k`, another teacher of the same seed; None for weights."""
    found = re.fullmatch(r"random(?::(\d+))?", checkpoint or "")
    return int(found[1] or 0) if found else None


def random_seed(config: RunConfig) -> int:
    """The seed of the first teacher, where it is random.

    Another one than the student's: two equal architectures would be equal models.
    """
    return config.seed + 1 + (random_number(config.teacher_checkpoint) or 0)


def projections(config: RunConfig) -> dict[str, int]:
    """Channels of what the student's embedding is projected to: blocks, by their names in batches.

    The necks of teachers have the student's own channels, and are compared with it directly.
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
