"""Exponential moving average of the student's weights, which often generalises better.

Polyak and Juditsky, SIAM J. Control Optim. 30 (1992); the growing decay is that of TensorFlow's
ExponentialMovingAverage.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return an average that starts as a copy of `model`; `update_parameters` adds to it.

    decay: factor of the average in an update; after n updates it is min(decay, (1 + n) / (10 + n)),
        so that the start weights are soon forgotten. The first update copies the weights.
        Buffers, such as BatchNorm statistics, are always copied.
    """

    @torch.no_grad()
    def add(average: Tensors, current: Tensors, updates: Tensor | int) -> None:
        count = int(updates)
        factor = min(decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(average, current, 1 - factor)

    return AveragedModel(model, multi_avg_fn=add).requires_grad_(False).eval()
