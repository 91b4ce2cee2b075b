"""Reading for a stage: the same samples for any number of processes, from any place in it."""

import os
from collections.abc import Callable, Iterator

import cv2
import pytest
import torch
from lightning_fabric import Fabric

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.sampling.dataset import Sample, TrainingSet, collate
from mobile_sam.training.batches import batches_of, loaded_batches
from mobile_sam.training.setup import training_set
from tests.helpers.equality import same_samples

Make = Callable[..., RunConfig]


def loaded(
    config: RunConfig, samples: TrainingSet, epoch: int, batch: int, end: int
) -> Iterator[Sample]:
    return loaded_batches(config, samples, Fabric(accelerator="cpu"), epoch, batch, end)


def read(config: RunConfig, epoch: int = 0, batch: int = 0, end: int = 3) -> list[Sample]:
    samples = training_set(config, normalise(config)[0])
    return list(loaded(config, samples, epoch, batch, end))


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_are_those_of_their_epochs(num_workers: int, tiny: Make) -> None:
    config = tiny(num_workers=num_workers, augment={"flip": True, "hue": 0.2})
    samples = training_set(config, normalise(config)[0])
    expected = [
        collate([samples[epoch * len(samples) + int(position)] for position in batch])
        for epoch in range(3)
        for batch in batches_of(config, samples, epoch).batches
    ]
    found = read(config)
    assert len(found) == len(expected) == 9
    assert all(same_samples(a, b) for a, b in zip(found, expected, strict=True))
    assert all(
        same_samples(a, b) for a, b in zip(read(config, 1, 2), expected[3 + 2 :], strict=True)
    )


def test_processes_last_as_long_as_the_stage_and_compute_in_one_thread(tiny: Make) -> None:
    config = tiny(num_workers=2)
    samples = training_set(config, normalise(config)[0])

    def about_the_process(record: object, view: str) -> dict[str, torch.Tensor]:
        threads = cv2.getNumThreads(), torch.get_num_threads()
        return {"process": torch.tensor([os.getpid(), *threads])}

    samples.read_features = about_the_process
    found = [
        row
        for batch in loaded(config, samples, 0, 0, 4)
        for row in batch.teacher["process"].tolist()
    ]
    assert len(found) == 40
    assert len({process for process, *_ in found}) == 2
    assert os.getpid() not in {process for process, *_ in found}
    assert {(of_opencv, of_torch) for _, of_opencv, of_torch in found} == {(1, 1)}
