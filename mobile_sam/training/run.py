"""Training of a run, stage by stage, each from the checkpoint of the one before."""

import logging
from typing import Any

import torch
from lightning_fabric import Fabric

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.layout import RunPaths
from mobile_sam.schedule import Stage, normalise
from mobile_sam.training.lock import exclusive
from mobile_sam.training.stage import StageTraining

log = logging.getLogger(__name__)


def train_run(config: RunConfig, directory: str | None = None) -> None:
    """Train one stage by its `NN_name`, or without one all stages that have no checkpoint yet.

    Each stage starts from the checkpoint of the one before, so that one process for each stage
    gives the same weights as one process for all.
    """
    stages = normalise(config)
    if directory is not None:
        names = [stage.directory for stage in stages]
        if directory not in names:
            raise ConfigError(f"--stage: there is no {directory!r}; there are {', '.join(names)}")
        train_stage(config, stages[names.index(directory)])
        return
    for stage in stages:
        if RunPaths(config).checkpoint(stage).is_file():
            log.info("stage %s is finished", stage.directory)
        else:
            train_stage(config, stage)


def train_stage(config: RunConfig, stage: Stage) -> None:
    """Train a stage and write its checkpoint and metrics.

    Continues from the resume state where there is one of the same settings and inputs; the
    result is the same, bit for bit. Raises ConfigError when another process trains the stage.
    """
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=config.devices,
        precision=_precision(config.precision),
        strategy="ddp_find_unused_parameters_true" if config.devices > 1 else "auto",
    )
    fabric.launch()
    state_dir = RunPaths(config).state(stage)
    state_dir.mkdir(parents=True, exist_ok=True)
    with exclusive(state_dir / "lock", only=fabric.is_global_zero):
        StageTraining(config, stage, fabric).run()


def _precision(setting: str) -> Any:
    if setting != "auto":
        return setting
    return (
        "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
    )
