"""Training of a run, stage by stage, each from the checkpoint of the previous one."""

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import CheckpointIO, ClusterEnvironment, Precision
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.config.stage import Stage
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.shared_stages import adopt_stages, link_stages
from mobile_sam.system.atomic_files import write_json
from mobile_sam.system.cpus import warn_if_shared
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.locking import acquire, open_lock
from mobile_sam.training.batch_size import with_batch_size
from mobile_sam.training.cpu import keep_freed_memory
from mobile_sam.training.epoch_validation import selection_iou
from mobile_sam.training.precision import precision_plugin, resolve_precision, warn_if_slow
from mobile_sam.training.progress import NotFiniteError
from mobile_sam.training.stage import StageTraining
from mobile_sam.training.stage_checkpoints import (
    finished_epochs,
    restore_finished,
    stage_results,
)

log = logging.getLogger(__name__)


def train_run(config: RunConfig, stage: str | None = None, until_epoch: int | None = None) -> None:
    """Train a stage, given by its directory, `NN_name`, or its number; None: all unfinished stages.

    Each stage starts from the checkpoint of the previous one, so one process for each stage gives
    the same weights as one process for all. A stage continues from its resume state if that has the
    same settings and inputs; the result is the same, bit for bit. The results of a finished stage
    that no later step has used are restored instead of trained again.
    until_epoch: see `train_to_rung`.
    Raises ConfigError if another process trains the stage.
    """
    stages = _select_stages(normalise(config), stage)
    if until_epoch is not None:
        _check_rung(config, stages, until_epoch)
    fabric = launch_fabric(config)
    if fabric.device.type == "cpu" and not config.recompute_encoder:
        keep_freed_memory()
    paths = RunPaths(config)
    if fabric.is_global_zero:
        adopt_stages([config])
        link_stages(config)
    fabric.barrier()
    for each in stages:
        waits = until_epoch is not None  # for another sweep that has the same stage
        with exclusive(paths.lock(each), fabric.is_global_zero, waits):
            if until_epoch is not None:
                train_to_rung(config, each, until_epoch, fabric)
                continue
            if stage is None and fabric.broadcast(paths.checkpoint(each).is_file()):
                log.info("stage %s is finished", each.directory)
                continue
            results = stage_results(config, each)
            if not restore_finished(each, results, fabric):
                sized = with_batch_size(config, each, results.key, fabric)
                StageTraining(sized, each, fabric, results).run()


def train_to_rung(config: RunConfig, stage: Stage, epoch: int, fabric: Fabric) -> None:
    """Train a stage up to an epoch of `sweep_stop`, and write its validation IoU at that epoch.

    The stage stays unfinished; training continues it bit for bit. A training that diverges has no
    IoU, which is a result, because it would diverge again.
    """
    target, results = RunPaths(config).rung(stage, epoch), stage_results(config, stage)
    rows: Sequence[Mapping[str, float]] | None
    problem = None
    try:
        rows = fabric.broadcast(finished_epochs(results) if fabric.is_global_zero else None)
        if rows is None:
            sized = with_batch_size(config, stage, results.key, fabric)
            rows = StageTraining(sized, stage, fabric, results).run(epoch).rows
    except NotFiniteError as error:
        rows, problem = [], str(error)
        log.warning("%s; the variant stops here", error)
    if fabric.is_global_zero:
        at_rung = [row for row in rows if row["epoch"] < epoch][-1:]
        ious = [selection_iou(row, config.selection_metric) for row in at_rung]
        write_json(target, {"iou": ious[0] if ious else None, "problem": problem})


def _check_rung(config: RunConfig, stages: Sequence[Stage], epoch: int) -> None:
    if config.val_images == 0:
        raise ConfigError("--until-epoch: needs validation IoU; set val_images above 0")
    if len(stages) > 1 or not stages[0].start_epoch < epoch <= stages[0].end_epoch:
        raise ConfigError(
            f"--until-epoch: {epoch}: give the --stage to which this epoch belongs; the stages are "
            + ", ".join(
                f"{s.directory}, {s.start_epoch} to {s.end_epoch}" for s in normalise(config)
            )
        )


def _select_stages(stages: tuple[Stage, ...], name: str | None) -> tuple[Stage, ...]:
    if name is None:
        return stages
    selected = tuple(stage for stage in stages if name in {stage.directory, str(stage.index)})
    if not selected:
        names = ", ".join(stage.directory for stage in stages)
        raise ConfigError(f"--stage: there is no {name!r}; there are {names}")
    return selected


def launch_fabric(config: RunConfig) -> Fabric:
    """Start all ranks of the run, including this process, and return their Fabric.

    Raises ConfigError if there are fewer devices, or fewer images in a batch, than `devices`, and
    if a launcher (SLURM, torchrun) has started another number of processes.
    """
    ranks = config.devices * config.num_nodes
    if config.batch_size != "auto" and config.batch_size < ranks:
        raise ConfigError(
            f"batch_size: {config.batch_size} is less than devices x num_nodes, which is {ranks}; "
            "each device needs an image of each batch"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and config.sync_batchnorm and ranks > 1:
        raise ConfigError(
            "sync_batchnorm: true needs GPUs, because PyTorch does not support it on CPUs; set it "
            "to false, or devices and num_nodes to 1"
        )
    if device == "cuda" and config.devices > torch.cuda.device_count():
        raise ConfigError(
            f"devices: {config.devices}, but only {torch.cuda.device_count()} GPUs are visible; "
            "lower devices, or list more GPUs in CUDA_VISIBLE_DEVICES"
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
            "processes were started; start one for each device (srun, torchrun), or a single one"
        )
    if fabric.is_global_zero:
        if config.precision == "auto":
            log.info("precision auto: %s", resolve_precision("auto", device))
        warn_if_slow(config.precision, device)
        if device == "cpu":
            warn_if_shared(torch.get_num_threads())
    else:
        logging.getLogger("mobile_sam").setLevel(logging.ERROR)  # only the first rank logs
    return fabric


def new_fabric(config: RunConfig, device: str) -> Fabric:
    """Return Fabric for the settings of a run on `cuda` or `cpu`; it detects SLURM and torchrun."""
    distributed = config.devices * config.num_nodes > 1
    plugins: list[Precision | ClusterEnvironment | CheckpointIO] = [
        precision_plugin(config.precision, device)
    ]
    # A single SLURM task with several devices, such as Snakemake's, starts the other ranks itself.
    if config.num_nodes == 1 and distributed and os.environ.get("SLURM_NTASKS") == "1":
        plugins.append(LightningEnvironment())
    return Fabric(
        accelerator=device,
        devices=config.devices,
        num_nodes=config.num_nodes,
        plugins=plugins,
        strategy="ddp_find_unused_parameters_true" if distributed else "auto",
    )


@contextmanager
def exclusive(path: Path, first_rank: bool = True, waits: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; raise ConfigError if another process holds it.

    first_rank: other ranks of a distributed job do not lock. waits: wait for the other process.
    """
    if not first_rank:
        yield
        return
    with open_lock(path) as file:
        try:
            # Not `flock`: forked image readers would still hold it after their trainer is killed.
            acquire(fcntl.lockf, file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):
            raise ConfigError(
                f"{path.parent}: another process is training this stage; wait for it or end it"
            ) from None
        yield
