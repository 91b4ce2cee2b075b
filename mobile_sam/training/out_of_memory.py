"""Recovery of a step from too little memory: it decodes fewer prompts at a time."""

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from mobile_sam.data.sampling.dataset import Sample
from mobile_sam.training.optim import batchnorms
from mobile_sam.training.step import TrainingModule

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


def with_smaller_passes(
    module: TrainingModule, batch: Sample, attempt: Callable[[], _Result]
) -> _Result:
    """Return the result of `attempt`, which adds the gradient of a batch to the parameters.

    While it runs out of a device's memory, its `decoder_chunk_size` is halved, what it left is
    removed, and it is made again; later steps keep the smaller passes. Raises
    torch.OutOfMemoryError when one prompt of each image at a time is still too much.
    """
    # The failed attempt's gradients would be mixed with those of batches before.
    before = {p: p.grad for p in module.parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    statistics = [buffer for norm in batchnorms(module) for buffer in norm.buffers()]
    kept = [buffer.clone() for buffer in statistics]
    while True:
        try:
            result = attempt()
            break
        except torch.OutOfMemoryError:
            if not _halve_passes(module, batch):
                raise
        # Only after the handler has the error let go of the tensors of the attempt.
        module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in zip(statistics, kept, strict=True):
                buffer.copy_(value)
        gc.collect()
        torch.cuda.empty_cache()
    for parameter, gradient in before.items():
        own = parameter.grad
        parameter.grad = gradient if own is None else gradient.add_(own)
    return result


def _halve_passes(module: TrainingModule, batch: Sample) -> bool:
    """Halve the number of prompts that are decoded at a time; false if it cannot be halved."""
    goal, (images, prompts) = module.objective, batch.labels.shape[:2]
    count = min(prompts, goal.decoder_chunk_size // images)
    if not goal.prompted or count <= 1:
        return False
    fewer = images * (count // 2)
    module.objective = replace(goal, decoder_chunk_size=fewer)
    log.warning(
        "out of memory on %s: the step is made again with %d prompts at a time, %d before; set "
        "decoder_chunk_size to %d to begin with that",
        *(batch.labels.device, fewer, images * count, fewer),
    )
    return True
