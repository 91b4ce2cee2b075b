"""The batches of a stage: their images, their weights, the share of each rank, reading ahead."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from mobile_sam.config.run import RunConfig
from mobile_sam.data.sampling.dataset import Sample, TrainingSet, collate
from mobile_sam.system.cpus import reading_processes
from mobile_sam.system.process import loader_options

Positions = NDArray[np.int_]


@dataclass(frozen=True)
class Batches:
    """The batches of one epoch, over all ranks; `accumulation` of them make an optimiser step.

    batches: positions of images; the last batch may be smaller. Those from `images` on are images
        that are in the epoch once more.
    labelled: so many of the images have masks, those before the others.
    """

    batches: list[Positions]
    accumulation: int
    images: int
    labelled: int

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return math.ceil(len(self) / self.accumulation)

    def ends_step(self, number: int) -> bool:
        """Return whether the optimiser steps after batch `number`."""
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
        images = len(self._of_step(number))
        return torch.full((len(part),), ranks / images, dtype=torch.float64)

    def per_labelled(self, number: int) -> float:
        """Images of the step of batch `number` for each that has masks; 1 where none has."""
        positions = self._of_step(number)
        labelled = int((positions % self.images < self.labelled).sum())
        return len(positions) / labelled if labelled else 1.0

    def _of_step(self, number: int) -> Positions:
        first = number - number % self.accumulation
        return np.concatenate(self.batches[first : first + self.accumulation])


def epoch_batches(
    images: int,
    batch_size: int,
    accumulation: int,
    seed: int,
    epoch: int,
    labelled: int | None = None,
    labelled_fraction: float | None = None,
) -> Batches:
    """Shuffle all images into batches, as a function of (seed, epoch).

    labelled: so many of the images have masks, those before the others; None: all.
    labelled_fraction: of each batch. Every image is in the epoch at least once, and those of the
        kind that is used up first are drawn again, at positions past the last image.
    """
    rng = np.random.default_rng([seed, epoch])
    labelled = images if labelled is None else labelled
    if labelled_fraction is None or labelled == images:
        order = rng.permutation(images)
        batches = [order[i : i + batch_size] for i in range(0, images, batch_size)]
        return Batches(batches, accumulation, images, labelled)
    with_masks = min(max(1, round(labelled_fraction * batch_size)), batch_size - 1)
    kinds = [(0, labelled, with_masks), (labelled, images - labelled, batch_size - with_masks)]
    number = max(math.ceil(count / size) for _, count, size in kinds)
    parts = []
    for first, count, size in kinds:
        turns = range(math.ceil(number * size / count))
        order = np.concatenate([first + rng.permutation(count) + k * images for k in turns])
        parts.append(order[: number * size].reshape(number, size))
    return Batches(list(np.concatenate(parts, axis=1)), accumulation, images, labelled)


def gather_from_ranks(fabric: Fabric, values: dict[str, Tensor], images: int) -> dict[str, Tensor]:
    """Gather the values of all ranks for the images of a batch, in its order, (images,), float64.

    values: of the images of this rank's part, by name; all ranks give the same names.
    """
    rank, ranks = fabric.global_rank, fabric.world_size
    own = torch.stack([value.detach().double() for value in values.values()])
    table = torch.zeros(len(values), images, dtype=torch.float64, device=own.device)
    table[:, rank::ranks] = own[:, : table[:, rank::ranks].shape[1]]  # without a stand-in
    if ranks > 1:
        fabric.all_reduce(table, reduce_op="sum")
    return dict(zip(values, table.cpu(), strict=True))


def batches_of(config: RunConfig, samples: TrainingSet, epoch: int) -> Batches:
    """Return the batches of one epoch, over all ranks."""
    return epoch_batches(
        len(samples),
        config.images_per_batch,
        config.gradient_accumulation,
        config.seed,
        epoch,
        samples.labelled,
        config.labelled_fraction,
    )


def loaded_batches(
    config: RunConfig, samples: TrainingSet, fabric: Fabric, epoch: int, batch: int, end_epoch: int
) -> Generator[Sample, None, None]:
    """Yield what this rank reads from a batch of an epoch to the end of a stage, on its device.

    There is no pause between epochs: while the last batches of one are learned, and while its
    weights are validated, the first ones of the next are read.
    """

    def numbers() -> Iterator[list[int]]:
        for number in range(epoch, end_epoch):
            batches = batches_of(config, samples, number)
            for i in range(batch if number == epoch else 0, len(batches)):
                part = batches.part(i, fabric.global_rank, fabric.world_size)
                yield samples.numbers(number, part)

    device = fabric.device
    loader = DataLoader(
        samples,
        batch_sampler=numbers(),
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        **loader_options(reading_processes(config.num_workers, device.type, config.devices)),
    )
    for read in loader:
        yield read.to(device)
