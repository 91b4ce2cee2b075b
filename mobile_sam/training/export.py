"""Student of a finished stage, as a model or as weights for the original code."""

import logging

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.config.sections import CheckpointKind
from mobile_sam.config.stage import Stage
from mobile_sam.models.sam import Sam
from mobile_sam.models.student_teacher import start_student
from mobile_sam.models.weights import write_weights
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.finished_results import retire
from mobile_sam.training import checkpoint

log = logging.getLogger(__name__)


def load_student(model: Sam, config: RunConfig, stage: Stage, kept: CheckpointKind) -> None:
    """Load the student of a stage, or its moving average if there is one, into `model`."""
    content = checkpoint.load_stage_checkpoint(config, stage, kept)
    averaged = content["average"] is not None
    state, prefix = (
        (content["average"], "module.") if averaged else (content["learner"], "student.")
    )
    weights = {key: value for key, value in state.items() if key.startswith(prefix)}
    model.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items()})


def export_stage(config: RunConfig, directory: str) -> None:
    """Write the student after the last epoch of a stage, `NN_name`, to `stage_weights`.

    Raises ConfigError if there is no such stage.
    """
    stages = {stage.directory: stage for stage in normalise(config)}
    if directory not in stages:
        raise ConfigError(f"--stage: there is no {directory!r}; there are {', '.join(stages)}")
    model = start_student(config)
    load_student(model, config, stages[directory], "last")
    write_weights(model, RunPaths(config).stage_weights(stages[directory]))


def export_weights(config: RunConfig) -> None:
    """Write the student of the last stage to `weights.pt`, under original MobileSAM names."""
    model = start_student(config)
    load_student(model, config, normalise(config)[-1], config.use_checkpoint)
    target = RunPaths(config).weights
    write_weights(model, target)
    retire(RunPaths(config).finished_stage(normalise(config)[-1]), checkpoint.version_of_code())
    if any(".se." in key for key in model.state_dict()):
        log.info("%s has Squeeze-and-Excitation gates, which only this package reads", target)
