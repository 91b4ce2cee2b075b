"""How far a stage is: what a resume state records, and what follows from it alone."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from mobile_sam.config import UserError


@dataclass
class Progress:
    """Where a stage is. `batch` counts batches of the epoch, `step` optimiser steps of the run.

    sums: losses times images, since the epoch began; seconds: time spent in it.
    rows: the metrics of finished epochs.
    """

    epoch: int
    batch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_iou: float = -1.0
    epochs_without_gain: int = 0

    def add(self, losses: dict[str, Tensor], images: int) -> None:
        """Count the losses of one batch."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().item() * images
        self.sums["images"] = self.sums.get("images", 0) + images

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Keep the metrics of the epoch, and begin the next."""
        self.rows.append(row)
        self.epoch += 1
        self.batch, self.sums, self.seconds = 0, {}, 0.0

    def stops_early(self, iou: float, patience: int) -> bool:
        """Whether the IoU of the epoch that ended makes `patience` epochs without a better one."""
        if iou > self.best_iou:
            self.best_iou, self.epochs_without_gain = iou, 0
        else:
            self.epochs_without_gain += 1
        return self.epochs_without_gain >= patience

    def seed(self, seed: int, rank: int) -> int:
        """Of what is random within the batch: a function of (seed, epoch, batch, rank)."""
        sequence = np.random.SeedSequence([seed, self.epoch, self.batch, rank])
        return int(sequence.generate_state(1)[0])


def epoch_batches(
    images: int, batch_size: int, ranks: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Positions of all batches of an epoch, over all ranks; all ranks get equally many.

    batch_size: images per rank and batch.
    """
    order = np.random.default_rng([seed, epoch]).permutation(images)
    order = np.resize(order, -(-images // ranks) * ranks)
    size = batch_size * ranks
    return [order[start : start + size] for start in range(0, len(order), size)]


class NotFiniteError(UserError):
    """The loss is no number any more; nothing of it is saved."""

    def __init__(self, loss: float, progress: Progress, images: list[str]) -> None:
        super().__init__(
            f"the loss is {loss} in epoch {progress.epoch + 1}, batch {progress.batch + 1} (images "
            f"{', '.join(images)}); look at these, or lower learning_rate. The last save is kept"
        )


def minutes(seconds: float) -> str:
    """Minutes and seconds, as `3:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
