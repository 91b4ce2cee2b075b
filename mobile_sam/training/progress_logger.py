"""Log of a stage's progress: lines in the log, and curves in TensorBoard."""

import logging
import time
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from mobile_sam.config.stage import Stage
from mobile_sam.paths import RunPaths
from mobile_sam.system.machine_errors import naming
from mobile_sam.training.progress import Progress, minutes

log = logging.getLogger(__name__)

_LOG_SECONDS = 5.0


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
