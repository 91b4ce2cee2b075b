"""Checkpoints that a run validates, and their names in tables."""

from pathlib import Path

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.config.sections import CheckpointKind, clean_name, is_safe_name
from mobile_sam.config.stage import Stage
from mobile_sam.config.teachers import named_teachers
from mobile_sam.system.errors import ConfigError

BOX_FILLED, START = "box_filled", "start"

# Version of validation tables and of the measurements in them. 2: clicks are placed as in RITM.
TABLE_VERSION = 2


def checkpoint_names(config: RunConfig) -> list[str]:
    """Return the names of the checkpoints that the run validates, in the order of its tables.

    These are the trivial baseline (the box itself as a mask), the student before training, the
    last and best checkpoint of each stage, the teachers, and the weights of `compare`.
    """
    return [
        BOX_FILLED,
        START,
        *stage_checkpoints(config),
        *named_teachers(config),
        *extra_weights(config),
    ]


def baselines(config: RunConfig) -> list[str]:
    """Return the names of checkpoints that are equal for all variants of a run."""
    return [BOX_FILLED, *named_teachers(config), *extra_weights(config)]


def stage_checkpoints(config: RunConfig) -> dict[str, tuple[Stage, CheckpointKind]]:
    """Return the checkpoints of all stages by their names in tables, `NN_name` and `NN_name_best`.

    There are no best checkpoints if no images are validated after each epoch.
    """
    kinds: tuple[CheckpointKind, ...] = ("last", "best") if config.val_images else ("last",)
    return {
        checkpoint_name(stage, kind): (stage, kind) for stage in normalise(config) for kind in kinds
    }


def checkpoint_name(stage: Stage, kind: CheckpointKind) -> str:
    """Return the name of a stage's checkpoint in tables."""
    return stage.directory if kind == "last" else f"{stage.directory}_best"


def exported_checkpoint(config: RunConfig) -> str:
    """Return the name in tables of the checkpoint that the run exports."""
    return checkpoint_name(normalise(config)[-1], config.use_checkpoint)


def referenced_run(config: RunConfig, reference: str) -> str:
    """Return the name of another run of the project, from `run:<name>`.

    Raises ConfigError for an invalid name, which could lead out of the project.
    """
    name = reference.removeprefix("run:")
    if not is_safe_name(name):
        raise ConfigError(
            f"run {config.run_name!r}: {reference!r} is not the name of a run; give "
            "run:<run_name>, with letters, digits, '_', '-' and '.'"
        )
    return name


def extra_weights(config: RunConfig) -> dict[str, str]:
    """Return the weights of `compare`, by their names in tables.

    `run:x` has the name `run_x`, a known checkpoint its own name, and a file its name without
    suffix. Raises ConfigError for duplicate names, and the errors of `referenced_run`.
    """
    result: dict[str, str] = {}
    taken = {BOX_FILLED, START, *stage_checkpoints(config), *named_teachers(config)}
    for weights in config.compare:
        if weights.startswith("run:"):
            name = f"run_{referenced_run(config, weights)}"
        else:
            name = clean_name(Path(weights).stem)
        if name in result or name in taken:
            raise ConfigError(
                f"run {config.run_name!r}: compare: {weights!r} has the name {name!r} in tables, "
                "which another checkpoint has; rename the file, or give a link of another name"
            )
        result[name] = weights
    return result
