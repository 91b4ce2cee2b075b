"""Progress of a stage, as the resume state records it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from mobile_sam.system.errors import UserError
from mobile_sam.training.step import SUPERVISED


@dataclass
class Progress:
    """Position in a stage.

    `batch` counts batches of the epoch over all ranks, `step` optimiser steps of the run.

    sums: of the losses of images since the epoch began, and the numbers of `images` and of those
        that are `labelled`; seconds: time spent in it.
    rows: the metrics of finished epochs.
    best_iou: of the best epoch so far, which is `best_epoch`; epochs_without_gain: since then.
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
        """Means over the images of the epoch so far; over labelled ones, where masks are needed."""
        images, labelled = self.sums["images"], max(1, self.sums["labelled"])
        return {
            name: value / (labelled if name in SUPERVISED else images)
            for name, value in self.sums.items()
            if name not in {"images", "labelled"}
        }

    def end_epoch(self, row: dict[str, Any], iou: float | None) -> bool:
        """Keep the metrics of the epoch, and begin the next; returns whether it was the best.

        iou: by which epochs are compared; without it each is better than those before.
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
        """The metrics of finished epochs; `best` is 1 for the best of them, else 0."""
        return [row | {"best": int(row["epoch"] == self.best_epoch)} for row in self.rows]

    def seed(self, seed: int, rank: int) -> int:
        """Return the seed of a batch: a function of (seed, epoch, batch, rank)."""
        sequence = np.random.SeedSequence([seed, self.epoch, self.batch, rank])
        return int(sequence.generate_state(1)[0])


class NotFiniteError(UserError):
    """Error for a NaN or infinite loss or gradient; it reaches neither weights nor checkpoints."""

    def __init__(self, what: str, progress: Progress, images: list[str]) -> None:
        super().__init__(
            f"{what} in epoch {progress.epoch + 1}, batch {progress.batch + 1} (images "
            f"{', '.join(images)}); look at these, or lower learning_rate. The last save is kept"
        )


def minutes(seconds: float) -> str:
    """Format minutes and seconds, as `3:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
