"""Training of a run, stage by stage, each from the checkpoint of the one before."""

import logging
import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import CheckpointIO, ClusterEnvironment, Precision
from lightning_fabric.plugins.environments import LightningEnvironment

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.layout import RunPaths
from mobile_sam.schedule import normalise
from mobile_sam.stage import Stage
from mobile_sam.training.allocation import keep_freed_memory
from mobile_sam.training.lock import exclusive
from mobile_sam.training.precision import precision_plugin, warn_if_slow
from mobile_sam.training.stage import StageTraining

log = logging.getLogger(__name__)


def train_run(config: RunConfig, directory: str | None = None) -> None:
    """Train one stage by its `NN_name`, or without one all stages that have no checkpoint yet.

    Each stage starts from the checkpoint of the one before, so that one process for each stage
    gives the same weights as one process for all. A stage goes on from its resume state where
    there is one of the same settings and inputs; the result is the same, bit for bit. Raises
    ConfigError when another process trains the run.
    """
    stages = _chosen(normalise(config), directory)
    fabric = launched(config)
    if fabric.device.type == "cpu" and not config.recompute_encoder:
        keep_freed_memory()
    paths = RunPaths(config)
    with exclusive(paths.lock, only=fabric.is_global_zero):
        finished = [paths.checkpoint(stage).is_file() for stage in stages]
        for stage, done in zip(stages, fabric.broadcast(finished), strict=True):
            if done and directory is None:
                log.info("stage %s is finished", stage.directory)
            else:
                StageTraining(config, stage, fabric).run()


def _chosen(stages: tuple[Stage, ...], directory: str | None) -> tuple[Stage, ...]:
    names = [stage.directory for stage in stages]
    if directory is None:
        return stages
    if directory not in names:
        raise ConfigError(f"--stage: there is no {directory!r}; there are {', '.join(names)}")
    return (stages[names.index(directory)],)


def launched(config: RunConfig) -> Fabric:
    """Fabric with all ranks of the run at work, of which this process is one.

    Raises ConfigError for more devices than there are, or than a batch has images, and for a
    launcher (SLURM, torchrun) that has started another number of processes.
    """
    ranks = config.devices * config.num_nodes
    if config.batch_size < ranks:
        raise ConfigError(
            f"batch_size: {config.batch_size} is less than devices x num_nodes, which is {ranks}; "
            "each device needs an image of each batch"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and config.devices > torch.cuda.device_count():
        raise ConfigError(
            f"devices: {config.devices}, but there are {torch.cuda.device_count()} GPUs to be "
            "seen; set devices to that, or CUDA_VISIBLE_DEVICES to more"
        )
    try:
        fabric = new_fabric(config, device)
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"devices: {config.devices}, num_nodes: {config.num_nodes}: {error}"
        ) from error
    if fabric.world_size != ranks:
        raise ConfigError(
            f"devices: {config.devices}, num_nodes: {config.num_nodes}, but {fabric.world_size} "
            "processes were started; start one for each device (srun, torchrun), or one in all"
        )
    if fabric.is_global_zero:
        warn_if_slow(config.precision, device)
    else:
        logging.getLogger("mobile_sam").setLevel(logging.ERROR)  # the first rank tells
    return fabric


def new_fabric(config: RunConfig, device: str) -> Fabric:
    """Fabric for the settings of a run, on `cuda` or `cpu`; SLURM and torchrun are recognised."""
    several = config.devices * config.num_nodes > 1
    plugins: list[Precision | ClusterEnvironment | CheckpointIO] = [
        precision_plugin(config.precision, device)
    ]
    # One SLURM task of several devices, such as Snakemake's: its process starts the others itself.
    if config.num_nodes == 1 and several and os.environ.get("SLURM_NTASKS") == "1":
        plugins.append(LightningEnvironment())
    return Fabric(
        accelerator=device,
        devices=config.devices,
        num_nodes=config.num_nodes,
        plugins=plugins,
        strategy="ddp_find_unused_parameters_true" if several else "auto",
    )
