"""One pass of the teacher: its precision, and how many images it takes at once."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mobile_sam.config.sections import Level
from mobile_sam.features.schema import FeatureError
from mobile_sam.models.device import fastest_precision
from mobile_sam.models.sam_vit import SamViTEncoder

_BATCHES = (16, 8, 4, 2, 1)  # images, as many as memory holds
_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@torch.no_grad()
def teacher_pass(encoder: Any, images: Tensor, levels: Sequence[Level]) -> dict[str, Tensor]:
    """Features (B, C, S/16, S/16) of images (B, 3, S, S), by the name of their level."""
    with precision(images.device):
        return encoder.features(images, levels)


def batch_size(
    encoder: nn.Module, look: Callable[[Tensor], object], img_size: int, device: torch.device
) -> int:
    """Images that `encoder` takes at once: all that a GPU's memory holds.

    look: the pass that is going to be made, of images (B, 3, S, S), in its own precision.
    On a CPU, eight for a small encoder and one for SAM's, whose attention takes gigabytes an image.
    """
    if device.type == "cpu":
        return 1 if isinstance(encoder, SamViTEncoder) else 8
    for size in _BATCHES:
        try:
            look(torch.zeros(size, 3, img_size, img_size, device=device))
        except torch.OutOfMemoryError:
            continue
        return size
    raise FeatureError(
        f"one image of {img_size} pixels is too much for the teacher in the memory of {device}; "
        "choose a smaller teacher or img_size"
    )


def precision(device: torch.device) -> AbstractContextManager[object]:
    """The precision of a teacher's pass, see `fastest_precision`."""
    dtype = _DTYPES.get(fastest_precision(device))
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
