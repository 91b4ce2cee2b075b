"""Progress of a stage: its record in the resume state, lines in the log, and TensorBoard curves."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from torch import Tensor

from mobile_sam.config.stage import Stage
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import UserError
from mobile_sam.system.machine_errors import naming
from mobile_sam.training.step import SUPERVISED

log = logging.getLogger(__name__)

_LOG_SECONDS = 5.0


@dataclass
class Progress:
    """Position in a stage.

    `batch` counts batches of the epoch over all ranks, `step` optimiser steps of the run.

    sums: losses summed over the images of the epoch so far, and the numbers of `images` and of
        `labelled` ones; seconds: time spent on the epoch.
    rows: the metrics of finished epochs.
    best_iou: IoU of `best_epoch`, the best one so far; epochs_without_gain: number of later epochs.
    """

    epoch: int
    batch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_iou: float = -1.0
    best_epoch: int = -1
    epochs_without_gain: int = 0

    def add(self, losses: dict[str, Tensor], labelled: Tensor) -> None:
        """Count the losses of one batch; all are (images,)."""
        sums = {name: values.sum().item() for name, values in losses.items()}
        sums |= {"images": len(labelled), "labelled": labelled.sum().item()}
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0) + value

    @property
    def losses(self) -> dict[str, float]:
        """Mean losses over images of the epoch so far; over labelled ones if they need masks."""
        images, labelled = self.sums["images"], max(1, self.sums["labelled"])
        return {
            name: value / (labelled if name in SUPERVISED else images)
            for name, value in self.sums.items()
            if name not in {"images", "labelled"}
        }

    def end_epoch(self, row: dict[str, Any], iou: float | None) -> bool:
        """Record the metrics of the epoch and begin the next; return whether it is the best so far.

        iou: the IoU that epochs are compared by; None: each epoch counts as better than the last.
        """
        best = iou is None or iou > self.best_iou
        if best:
            self.best_iou, self.best_epoch = -1.0 if iou is None else iou, self.epoch
        self.epochs_without_gain = 0 if best else self.epochs_without_gain + 1
        self.rows.append(row)
        self.epoch += 1
        self.batch, self.sums, self.seconds = 0, {}, 0.0
        return best

    def table(self) -> list[dict[str, Any]]:
        """Return the metrics of finished epochs; `best` is 1 for the best one, else 0."""
        return [row | {"best": int(row["epoch"] == self.best_epoch)} for row in self.rows]

    def seed(self, seed: int, rank: int) -> int:
        """Return the seed of a batch: a function of (seed, epoch, batch, rank)."""
        sequence = np.random.SeedSequence([seed, self.epoch, self.batch, rank])
        return int(sequence.generate_state(1)[0])


class NotFiniteError(UserError):
    """Error for a NaN or infinite loss or gradient; it reaches neither weights nor checkpoints."""

    def __init__(self, value: str, progress: Progress, images: list[str]) -> None:
        super().__init__(
            f"{value} in epoch {progress.epoch + 1}, batch {progress.batch + 1} (images "
            f"{', '.join(images)}); check these images, or lower learning_rate. The last saved "
            "state is kept"
        )


def minutes(seconds: float) -> str:
    """Format minutes and seconds, as `3:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class ProgressLogger:
    """Logger of some steps and all epochs, on the first rank only.

    batches_per_epoch: number of batches over all ranks. step: the last step of the resume state.
    """

    def __init__(
        self, paths: RunPaths, stage: Stage, fabric: Fabric, batches_per_epoch: int, step: int
    ) -> None:
        self.stage, self.batches_per_epoch = stage, batches_per_epoch
        self.first = fabric.is_global_zero
        self.logged_at = time.monotonic()
        self.directory = paths.tensorboard(stage)
        with naming(self.directory):
            self.writer = _tensorboard(self.directory, step) if self.first else None

    def step(self, progress: Progress, loss: float, learning_rate: float) -> None:
        """Log a finished batch, at most every few seconds."""
        if not self.first or time.monotonic() - self.logged_at < _LOG_SECONDS:
            return
        self.logged_at = time.monotonic()
        done = (progress.epoch - self.stage.start_epoch) * self.batches_per_epoch + progress.batch
        total = (self.stage.end_epoch - self.stage.start_epoch) * self.batches_per_epoch
        spent = progress.seconds + sum(row["seconds"] for row in progress.rows)
        speed = progress.sums["images"] / progress.seconds
        log.info(
            "epoch %d/%d  step %d/%d  loss %.4f  %.1f img/s  %s left",
            progress.epoch + 1,
            self.stage.end_epoch,
            progress.batch,
            self.batches_per_epoch,
            loss,
            speed,
            minutes(spent / done * (total - done)),
        )
        values = {"loss": loss, "learning_rate": learning_rate, "images_per_s": speed}
        self._draw("step", values, progress.step)

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        """Log a finished epoch with its metrics."""
        if not self.first:
            return
        ious = [f"{name} {value:.3f}" for name, value in row.items() if name.startswith("val_")]
        metrics = "  ".join([f"loss {row['loss']:.4f}", *ious])
        mark = "  best so far" if best and ious else ""
        log.info("epoch %d done in %.0f s  %s%s", row["epoch"] + 1, row["seconds"], metrics, mark)
        self._draw(
            "epoch", {k: v for k, v in row.items() if k not in {"epoch", "step"}}, row["step"]
        )

    def flush(self) -> None:
        """Write all curves to disk, before a resume state is saved."""
        if self.writer is not None:
            with naming(self.directory):
                self.writer.flush()

    def close(self) -> None:
        """Close the files of the curves."""
        if self.writer is not None:
            with naming(self.directory):
                self.writer.close()

    def _draw(self, group: str, values: dict[str, float], step: int) -> None:
        if self.writer is not None:
            with naming(self.directory):
                for name, value in values.items():
                    self.writer.add_scalar(f"{group}/{name}", value, step)


def _tensorboard(directory: Path, step: int) -> Any:
    """Return a writer of event files; None if TensorBoard is not installed.

    step: the last valid step. Later points, which an interrupted process has drawn, are dropped,
    because they would appear twice.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory), purge_step=step + 1)
