"""Batches of a stage: their images, loss weights, the part of each rank, and loading."""

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
    """Batches of one epoch over all ranks; an optimiser step uses `accumulation` of them.

    batches: positions of images; the last batch may be smaller. A position p from `images` on
        repeats the image p % images.
    images: number of images. labelled: number of images with masks, which come first.
    """

    batches: list[Positions]
    accumulation: int
    images: int
    labelled: int

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return math.ceil(len(self) / self.accumulation)

    def ends_step(self, number: int) -> bool:
        """Return whether batch `number` is the last one of an optimiser step."""
        return (number + 1) % self.accumulation == 0 or number + 1 == len(self)

    def part(self, number: int, rank: int, ranks: int) -> Positions:
        """Return the positions of batch `number` that a rank reads.

        If no image is left for a rank, it reads the first one with weight 0, because every rank
        must take part in every step.
        """
        positions = self.batches[number][rank::ranks]
        return positions if len(positions) else self.batches[number][:1]

    def weights(self, number: int, rank: int, ranks: int) -> Tensor:
        """Return the loss weights of the images of `part`, (images,).

        Gradients are summed over the batches of a step and averaged over ranks. With these weights
        the result is the gradient of the mean loss over all images of the step.
        """
        part = self.part(number, rank, ranks)
        if rank >= len(self.batches[number]):
            return torch.zeros(len(part), dtype=torch.float64)
        images = len(self._step_positions(number))
        return torch.full((len(part),), ranks / images, dtype=torch.float64)

    def per_labelled(self, number: int) -> float:
        """Return images per labelled image in the step of batch `number`; 1 if none is labelled."""
        positions = self._step_positions(number)
        labelled = int((positions % self.images < self.labelled).sum())
        return len(positions) / labelled if labelled else 1.0

    def _step_positions(self, number: int) -> Positions:
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

    labelled: number of images with masks, which come first; None: all.
    labelled_fraction: share of labelled images in each batch. Every image is in the epoch at least
        once. Images of the kind that runs out first are repeated, see `Batches.batches`.
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
        rounds = range(math.ceil(number * size / count))
        order = np.concatenate([first + rng.permutation(count) + k * images for k in rounds])
        parts.append(order[: number * size].reshape(number, size))
    return Batches(list(np.concatenate(parts, axis=1)), accumulation, images, labelled)


def gather_from_ranks(fabric: Fabric, values: dict[str, Tensor], images: int) -> dict[str, Tensor]:
    """Gather values of all images of a batch from all ranks, in order; (images,) each, float64.

    values: values of the images in this rank's part, by name; all ranks pass the same names.
    """
    rank, ranks = fabric.global_rank, fabric.world_size
    local = torch.stack([value.detach().double() for value in values.values()])
    table = torch.zeros(len(values), images, dtype=torch.float64, device=local.device)
    table[:, rank::ranks] = local[
        :, : table[:, rank::ranks].shape[1]
    ]  # without an image of weight 0
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
    """Yield this rank's part of each batch, from a batch of an epoch to the end of the stage.

    Samples are on the rank's device. Reading does not pause between epochs: the first batches of
    an epoch are read during the last batches and the validation of the previous one.
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
    for sample in loader:
        yield sample.to(device)
