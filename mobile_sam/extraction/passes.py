"""Forward pass of the teacher: its precision and its batch size."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mobile_sam.config.sections import Level
from mobile_sam.features.schema import FeatureError
from mobile_sam.models.device import fastest_precision
from mobile_sam.models.sam_vit import SamViTEncoder

_BATCH_SIZES = (16, 8, 4, 2, 1)  # tried on a GPU in this order
_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@torch.no_grad()
def teacher_pass(encoder: Any, images: Tensor, levels: Sequence[Level]) -> dict[str, Tensor]:
    """Compute the features (B, C, S/16, S/16) of images (B, 3, S, S), by level name."""
    with precision(images.device):
        return encoder.features(images, levels)


def batch_size(
    encoder: nn.Module, forward: Callable[[Tensor], object], img_size: int, device: torch.device
) -> int:
    """Return the batch size for an encoder: up to 16 images, as many as a GPU's memory holds.

    forward: the pass on images (B, 3, S, S), in the precision that will be used.
    On a CPU: 8 for a small encoder; 1 for SAM's ViT, whose attention takes gigabytes per image.
    Raises FeatureError if a GPU's memory does not hold one image.
    """
    if device.type == "cpu":
        return 1 if isinstance(encoder, SamViTEncoder) else 8
    for size in _BATCH_SIZES:
        try:
            forward(torch.zeros(size, 3, img_size, img_size, device=device))
        except torch.OutOfMemoryError:
            continue
        return size
    raise FeatureError(
        f"the memory of {device} is too small to encode one image of {img_size} pixels; choose a "
        "smaller encoder or a smaller img_size"
    )


def precision(device: torch.device) -> AbstractContextManager[object]:
    """Return the autocast context of a teacher's pass, see `fastest_precision`."""
    dtype = _DTYPES.get(fastest_precision(device))
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
