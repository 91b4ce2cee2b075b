"""Progress of a stage: what the resume state records."""

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
