"""Encoding of stored features: float16, or int8 with a scale for each channel."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mobile_sam.features.schema import FeatureError, LevelArrays

_INT8_MAX = 127


def encode(features: Tensor, dtype: str) -> dict[str, Tensor]:
    """Encode features (..., C, h, w) for the store: the same shape, and for int8 scales (..., C).

    The result stays on the device, without synchronisation; `to_arrays` checks it.
    """
    if dtype == "float16":
        return {"": features.half()}
    values = features.float()
    scale = values.abs().amax((-2, -1)) / _INT8_MAX
    # A channel of zeros has scale 0, and is decoded as zeros.
    steps = values / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None, None]
    return {"": steps.round().to(torch.int8), "_scale": scale}


def to_arrays(encoded: Mapping[str, Tensor]) -> LevelArrays:
    """Convert encoded features on the CPU to arrays.

    Raises FeatureError for features that are not finite, or too large for float16.
    """
    largest = encoded["_scale"] * _INT8_MAX if "_scale" in encoded else encoded[""]
    # `decode` returns float16, whatever the stored dtype.
    if not torch.isfinite(largest.half()).all():
        raise FeatureError(
            "the encoder's features are not finite, or too large for float16; check its weights"
        )
    return {suffix: tensor.numpy() for suffix, tensor in encoded.items()}


def decode(parts: LevelArrays, dtype: str) -> Tensor:
    """Return the features (..., C, h, w), float16, that `encode` has encoded."""
    values = torch.from_numpy(parts[""])
    if dtype == "float16":
        return values
    return values.float().mul_(torch.from_numpy(parts["_scale"])[..., None, None]).half()
