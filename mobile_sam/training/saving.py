"""What a stage keeps: the resume state, its best epoch, and what it leaves for the next stage."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lightning_fabric import Fabric
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.files import remove_unfinished, whole
from mobile_sam.layout import RunPaths
from mobile_sam.schedule import canonical, normalise
from mobile_sam.stage import Stage
from mobile_sam.training import checkpoint
from mobile_sam.training.learner import Learner
from mobile_sam.training.progress import Progress
from mobile_sam.training.start import state_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """All that a step changes, and that the next stage goes on with.

    average: of the student's weights; None without `ema_decay`.
    """

    learner: Learner
    optimizer: Optimizer
    average: AveragedModel | None
    fabric: Fabric

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),  # the loss scale of 16-mixed
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Take over a `state`."""
        self.learner.load_state_dict(content["learner"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        if content["precision"]:
            self.fabric.strategy.precision.load_state_dict(content["precision"])


class Saves:
    """The files of one stage; all ranks read them, the first one writes them."""

    def __init__(self, config: RunConfig, stage: Stage, trained: Trained) -> None:
        self.config, self.stage, self.trained = config, stage, trained
        self.paths = RunPaths(config)
        self.first = trained.fabric.is_global_zero
        self.resume = self.paths.state(stage) / "resume.pt"
        self.best = self.paths.state(stage) / "best.pt"
        self.before = normalise(config)[stage.index - 1] if stage.index else None
        self.key = state_key(config, stage, self.paths.index, self._previous())

    def begin(self) -> Progress:
        """Restore the resume state, or else what the stage before has left."""
        if self.first:
            for directory in (self.resume.parent, self.paths.checkpoint(self.stage).parent):
                directory.mkdir(parents=True, exist_ok=True)
                remove_unfinished(directory)
        if self.resume.is_file():
            content = checkpoint.load(self.resume)
            if content["key"] == self.key:
                self.trained.restore(content)
                progress = Progress(**content["progress"])
                log.info("resuming at epoch %d, batch %d", progress.epoch, progress.batch)
                return progress
            log.info("%s belongs to other settings or inputs; starting anew", self.resume)
        progress = Progress(epoch=self.stage.start_epoch)
        if self.before is not None:
            content = checkpoint.of_stage(self.config, self.before, self.stage.start_from)
            self.trained.restore(content)
            progress.step = content["step"]
        return progress

    def _previous(self) -> Path | None:
        if self.before is None:
            return None
        path = self.paths.checkpoint(self.before, self.stage.start_from)
        if not path.is_file():
            raise ConfigError(f"{path}: missing; train stage {self.before.directory} first")
        return path

    def save(self, progress: Progress) -> None:
        """Write what the same command goes on from."""
        if self.first:
            content = {"key": self.key, "progress": asdict(progress)}
            checkpoint.save(self.resume, self._content(progress) | content)

    def end_epoch(self, progress: Progress, best: bool) -> None:
        """Keep the epoch if it is the best one so far, and the metrics.

        The best may be of a later epoch than the resume state. Resumed, the epochs in between are
        done again, bit for bit, and leave the same best.
        """
        if not self.first:
            return
        _write_table(progress, self.resume.with_name("metrics.csv"))
        if best and self.config.val_images:
            checkpoint.save(self.best, self._content(progress))

    def finish(self, progress: Progress) -> None:
        """Write the results of the stage; with its checkpoint it is finished."""
        self.trained.fabric.barrier()
        if self.first:
            _write_table(progress, self.paths.metrics(self.stage))
            best = self.paths.checkpoint(self.stage, "best")
            content = self._content(progress)
            checkpoint.save(best, checkpoint.load(self.best) if self.config.val_images else content)
            last = self.paths.checkpoint(self.stage)
            checkpoint.save(last, content)
            for path in (self.resume, self.best, self.resume.with_name("metrics.csv")):
                path.unlink(missing_ok=True)
            log.info("stage %s is finished: %s", self.stage.directory, last)
        self.trained.fabric.barrier()

    def _content(self, progress: Progress) -> dict[str, Any]:
        return {
            **self.trained.state(),
            "step": progress.step,
            "epoch": progress.epoch,
            "settings": canonical(self.config, self.stage),
            "model_type": self.config.model_type,
            "provenance": checkpoint.provenance(),
        }


def _write_table(progress: Progress, path: Path) -> None:
    with whole(path) as unfinished:
        pd.DataFrame(progress.table()).to_csv(unfinished, index=False)
