"""The two passes of a prediction, encoding and decoding: their arithmetic, and their time."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mobile_sam.models.device import wait_for
from mobile_sam.models.prompt_encoder import BOTTOM_RIGHT, TOP_LEFT
from mobile_sam.models.sam import Sam

_WARM_UP = 2


class Passes(NamedTuple):
    """What is done once an image, and once a prompt.

    encode: the image encoder on one image, (1, 3, S, S).
    decode: prompt encoder and mask decoder on one box and the embedding of that image, to one mask
        of (S/4, S/4). It is not upscaled, which depends on the size of the original.
    """

    encode: Callable[[], Tensor]
    decode: Callable[[], Tensor]


class Milliseconds(NamedTuple):
    """How long repeated work took: 10th percentile, median and 90th percentile."""

    low: float
    median: float
    high: float


@torch.no_grad()
def passes(model: Sam) -> Passes:
    """A model's passes on noise and a box in its middle; the model stays where it is."""
    device, side = model.mask_decoder.iou_token.weight.device, model.img_size
    image = torch.randn(1, 3, side, side, device=device)
    corners = torch.tensor([[[0.25, 0.25], [0.75, 0.75]]], device=device) * side  # (1, 2, 2) xy
    labels = torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]], device=device)
    embedding = model.image_encoder(image)  # (1, C, S/16, S/16)
    return Passes(
        encode=lambda: model.image_encoder(image),
        decode=lambda: model.decode(embedding, corners, labels)[0],
    )


@torch.no_grad()
def latency(work: Callable[[], Tensor], repeats: int, device: torch.device) -> Milliseconds:
    """Time of `work` once it is warm, `repeats` times.

    device: where `work` is done; what a GPU was given is waited for.
    """
    for _ in range(_WARM_UP):
        work()
    seconds = []
    for _ in range(repeats):
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    return Milliseconds(*(float(ms) for ms in np.percentile(seconds, [10, 50, 90]) * 1e3))


@torch.no_grad()
def count_flops(work: Callable[[], Tensor]) -> int:
    """Floating-point operations of products and convolutions: 2 for each multiply-accumulate.

    Papers mostly give multiply-accumulates (MACs), half as many. Biases, norms, activations,
    softmax and interpolation are not counted. Parameters must not need gradients. On a CPU the
    fused kernel of attention counts as nothing (torch 2.14): count on the meta device.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
