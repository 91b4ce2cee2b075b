"""The batches of an epoch: their images, their weights, and what each rank does of them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

Positions = NDArray[np.int_]


@dataclass(frozen=True)
class Batches:
    """The batches of one epoch, over all ranks; `accumulation` of them make an optimiser step.

    batches: positions of images; the last batch may be smaller.
    """

    batches: list[Positions]
    accumulation: int

    def __len__(self) -> int:
        return len(self.batches)

    def ends_step(self, number: int) -> bool:
        """Whether the optimiser steps after batch `number`."""
        return (number + 1) % self.accumulation == 0 or number + 1 == len(self)

    def part(self, number: int, rank: int, ranks: int) -> Positions:
        """The positions that a rank reads of batch `number`.

        A rank for which no image is left reads the first one too, and counts it with weight 0:
        every rank must take part in every step.
        """
        own = self.batches[number][rank::ranks]
        return own if len(own) else self.batches[number][:1]

    def weights(self, number: int, rank: int, ranks: int) -> Tensor:
        """Weights of the losses of `part`, (images,).

        Gradients are summed over the batches of a step and averaged over ranks; these weights make
        that the gradient of the mean over all images of the step.
        """
        part = self.part(number, rank, ranks)
        if rank >= len(self.batches[number]):
            return torch.zeros(len(part), dtype=torch.float64)
        first = number - number % self.accumulation
        images = sum(len(batch) for batch in self.batches[first : first + self.accumulation])
        return torch.full((len(part),), ranks / images, dtype=torch.float64)


def epoch_batches(
    images: int, batch_size: int, accumulation: int, seed: int, epoch: int
) -> Batches:
    """All images in an order of the epoch's own, a function of (seed, epoch)."""
    order = np.random.default_rng([seed, epoch]).permutation(images)
    return Batches([order[i : i + batch_size] for i in range(0, images, batch_size)], accumulation)


def steps_per_epoch(images: int, batch_size: int, accumulation: int) -> int:
    """Optimiser steps of an epoch."""
    return math.ceil(math.ceil(images / batch_size) / accumulation)


def of_all_ranks(fabric: Fabric, values: dict[str, Tensor], images: int) -> dict[str, Tensor]:
    """What all ranks found about the images of a batch, in its order, (images,) each, float64.

    values: of the images of this rank's part, by name; all ranks give the same names.
    """
    rank, ranks = fabric.global_rank, fabric.world_size
    own = torch.stack([value.detach().double() for value in values.values()])
    table = torch.zeros(len(values), images, dtype=torch.float64, device=own.device)
    table[:, rank::ranks] = own[:, : table[:, rank::ranks].shape[1]]  # without a stand-in
    if ranks > 1:
        fabric.all_reduce(table, reduce_op="sum")
    return dict(zip(values, table.cpu(), strict=True))
