"""Recovery of a training step that runs out of memory: it decodes fewer prompts at a time."""

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from mobile_sam.data.sampling.dataset import Sample
from mobile_sam.training.optim import save_statistics
from mobile_sam.training.step import TrainingModule

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


def with_smaller_passes(
    module: TrainingModule, batch: Sample, attempt: Callable[[], _Result]
) -> _Result:
    """Return the result of `attempt`, which adds the gradient of a batch to the parameters.

    If it runs out of a device's memory, its traces are removed, `decoder_chunk_size` is halved, and
    it is repeated; later steps keep the smaller size. Raises torch.OutOfMemoryError if even one
    prompt of each image at a time does not fit.
    """
    # Gradients of a failed attempt must not be mixed with those of earlier batches.
    before = {p: p.grad for p in module.parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    restore_statistics = save_statistics(module)
    while True:
        try:
            result = attempt()
            break
        except torch.OutOfMemoryError:
            if not _halve_passes(module, batch):
                raise
        # Inside the handler, the error would still hold tensors of the attempt.
        module.zero_grad(set_to_none=True)
        restore_statistics()
        gc.collect()
        torch.cuda.empty_cache()
    for parameter, gradient in before.items():
        added = parameter.grad
        parameter.grad = gradient if added is None else gradient.add_(added)
    return result


def _halve_passes(module: TrainingModule, batch: Sample) -> bool:
    """Halve the number of prompts decoded at a time; return false if that is impossible."""
    objective, (images, prompts) = module.objective, batch.labels.shape[:2]
    count = min(prompts, objective.decoder_chunk_size // images)
    if not objective.prompted or count <= 1:
        return False
    fewer = images * (count // 2)
    module.objective = replace(objective, decoder_chunk_size=fewer)
    log.warning(
        "out of memory on %s: the step is repeated with %d prompts at a time instead of %d; set "
        "decoder_chunk_size to %d to start with this number",
        *(batch.labels.device, fewer, images * count, fewer),
    )
    return True
