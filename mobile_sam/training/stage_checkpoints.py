"""Files of a stage: the resume state, the best epoch, and the checkpoints for the next stage."""

import csv
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import canonical, normalise
from mobile_sam.config.stage import Stage
from mobile_sam.paths import RunPaths
from mobile_sam.system.atomic_files import atomic_write, remove_unfinished
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.finished_results import Finished, discard_retired, retire
from mobile_sam.system.stopping import stopping_point
from mobile_sam.training import checkpoint
from mobile_sam.training.progress import Progress
from mobile_sam.training.setup import state_key
from mobile_sam.training.step import TrainingModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingState:
    """State that a step changes and the next stage starts with.

    average: moving average of the student's weights; None without `ema_decay`.
    """

    module: TrainingModule
    optimizer: Optimizer
    average: AveragedModel | None
    fabric: Fabric

    def content(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        return {
            "learner": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),  # the loss scale of 16-mixed
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Load the result of `content`."""
        self.module.load_state_dict(content["learner"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        if content["precision"]:
            self.fabric.strategy.precision.load_state_dict(content["precision"])


def stage_results(config: RunConfig, stage: Stage) -> Finished:
    """Return the results of a stage, identified by its settings and inputs.

    Raises ConfigError if the checkpoint of the previous stage is missing.
    """
    paths, previous = RunPaths(config), _previous_stage(config, stage)
    start = None if previous is None else paths.checkpoint(previous, stage.start_from)
    if previous is not None and start is not None and not start.is_file():
        raise ConfigError(f"{start}: missing; train stage {previous.directory} first")
    return Finished(
        paths.finished_stage(stage),
        state_key(config, stage, paths.index, start),
        # The last checkpoint is written last, because it marks the stage as finished.
        [paths.metrics(stage), paths.checkpoint(stage, "best"), paths.checkpoint(stage)],
    )


def restore_finished(stage: Stage, results: Finished, fabric: Fabric) -> bool:
    """Restore the results of an earlier attempt; return whether it had finished the stage."""
    if fabric.is_global_zero:
        discard_retired(results.place, checkpoint.version_of_code())
    restored = fabric.is_global_zero and results.restore()
    if restored:
        log.info("stage %s was finished before; its results are restored", stage.directory)
        _remove_resume_state(results)
    return fabric.broadcast(restored)


def finished_epochs(results: Finished) -> list[dict[str, float]] | None:
    """Return the metrics of the epochs of a stage that is finished with this key; else None."""
    for directory in (results.outputs[0].parent, results.place):
        metrics, _, last = (directory / path.name for path in results.outputs)
        made = last.is_file() and metrics.is_file()
        if made and checkpoint.load(last).get("key") == results.key:
            with metrics.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            return [{name: float(value) for name, value in row.items()} for row in rows]
    return None


def _previous_stage(config: RunConfig, stage: Stage) -> Stage | None:
    return normalise(config)[stage.index - 1] if stage.index else None


def _remove_resume_state(results: Finished) -> None:
    """Remove the resume state of the stage, but not the results in the same directory."""
    for path in sorted(results.place.parent.iterdir()):
        if path == results.place:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        stopping_point(f"{path.name} is removed")


class StageCheckpoints:
    """Files of one stage; all ranks read them, the first one writes them."""

    def __init__(
        self, config: RunConfig, stage: Stage, state: TrainingState, results: Finished
    ) -> None:
        self.config, self.stage, self.state, self.results = config, stage, state, results
        self.paths = RunPaths(config)
        self.first = state.fabric.is_global_zero
        self.resume = self.paths.state(stage) / "resume.pt"
        self.best = self.paths.state(stage) / "best.pt"
        self.previous = _previous_stage(config, stage)

    def begin(self) -> Progress:
        """Load the resume state, or the checkpoint of the previous stage."""
        if self.first:
            stage_directory = self.paths.checkpoint(self.stage).parent
            for directory in (self.resume.parent, self.results.place, stage_directory):
                directory.mkdir(parents=True, exist_ok=True)
                remove_unfinished(directory)
        progress = self._resume() or self._start()
        if self.first and self.previous is not None:
            retire(self.paths.finished_stage(self.previous), checkpoint.version_of_code())
        return progress

    def _resume(self) -> Progress | None:
        if not self.resume.is_file():
            return None
        content = checkpoint.load(self.resume)
        if content["key"] != self.results.key:
            log.info("%s belongs to other settings or inputs; starting from scratch", self.resume)
            return None
        self.state.restore(content)
        progress = Progress(**content["progress"])
        log.info("resuming at epoch %d, batch %d", progress.epoch, progress.batch)
        return progress

    def _start(self) -> Progress:
        progress = Progress(epoch=self.stage.start_epoch)
        if self.previous is not None:
            content = checkpoint.load_stage_checkpoint(
                self.config, self.previous, self.stage.start_from
            )
            self.state.restore(content)
            progress.step = content["step"]
        return progress

    def save(self, progress: Progress) -> None:
        """Write the resume state, from which the same command continues."""
        if self.first:
            content = self._content(progress) | {"progress": asdict(progress)}
            checkpoint.save(self.resume, content)

    def end_epoch(self, progress: Progress, best: bool) -> None:
        """Write the metrics, and the weights of the epoch if it is the best one so far.

        The best epoch may be later than the resume state. After a resume, the epochs in between
        are repeated bit for bit and give the same best epoch.
        """
        if not self.first:
            return
        _write_table(progress, self.resume.with_name("metrics.csv"))
        if best and self.config.val_images:
            checkpoint.save(self.best, self._content(progress))

    def pause(self, progress: Progress) -> None:
        """Write the resume state at an epoch of `sweep_stop`, from which the stage can continue."""
        self.state.fabric.barrier()
        self.save(progress)
        if self.first:
            log.info("stage %s is trained to epoch %d", self.stage.directory, progress.epoch)
        self.state.fabric.barrier()

    def finish(self, progress: Progress) -> None:
        """Write the results of the stage.

        If this is interrupted, the same command continues here without training again.
        """
        self.state.fabric.barrier()
        if self.first:
            self.save(progress)
            stopping_point("the last epoch is saved")
            metrics, best, last = self.results.outputs
            with self.results.making() as place:
                _write_table(progress, place / metrics.name)
                stopping_point("metrics are made")
                content = self._content(progress)
                checkpoint.save(
                    place / best.name,
                    checkpoint.load(self.best) if self.config.val_images else content,
                )
                stopping_point("the best epoch is made")
                checkpoint.save(place / last.name, content)
            _remove_resume_state(self.results)
            log.info("stage %s is finished: %s", self.stage.directory, last)
        self.state.fabric.barrier()

    def _content(self, progress: Progress) -> dict[str, Any]:
        return {
            **self.state.content(),
            "key": self.results.key,
            "step": progress.step,
            "epoch": progress.epoch,
            "batch_size": self.config.images_per_batch,
            "settings": canonical(self.config, self.stage),
            "model_type": self.config.model_type,
            "provenance": checkpoint.provenance(),
        }


def _write_table(progress: Progress, path: Path) -> None:
    import pandas as pd  # here, so that a training starts faster

    with atomic_write(path) as unfinished:
        pd.DataFrame(progress.table()).to_csv(unfinished, index=False)
