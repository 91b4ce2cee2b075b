"""Exponential moving average of the student's weights, which is often better than the last ones.

Polyak and Juditsky, SIAM J. Control Optim. 30 (1992); the growing decay is that of TensorFlow's
ExponentialMovingAverage.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return an average that starts as a copy of `model`; `update_parameters` adds to it.

    decay: what an update keeps of the average; min(decay, (1 + n) / (10 + n)) after n updates, so
        that the random start is forgotten soon. The first update copies. Buffers, such as
        BatchNorm statistics, are always copied.
    """

    @torch.no_grad()
    def add(average: Tensors, current: Tensors, updates: Tensor | int) -> None:
        count = int(updates)
        kept = min(decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(average, current, 1 - kept)

    return AveragedModel(model, multi_avg_fn=add).requires_grad_(False).eval()
