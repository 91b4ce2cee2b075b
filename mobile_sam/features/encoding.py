"""Encoding of features on disk: float16, or int8 with a scale for each channel."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mobile_sam.features.schema import FeatureError, LevelArrays

_INT8_MAX = 127


def encode(features: Tensor, dtype: str) -> dict[str, Tensor]:
    """Encode features (..., C, h, w) for the store: the same shape, and for int8 scales (..., C).

    Stays on the device, and waits for nothing; `to_arrays` says whether it can be stored.
    """
    if dtype == "float16":
        return {"": features.half()}
    values = features.float()
    scale = values.abs().amax((-2, -1)) / _INT8_MAX
    # A channel of zeros has scale 0, and stays zero.
    steps = values / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None, None]
    return {"": steps.round().to(torch.int8), "_scale": scale}


def to_arrays(encoded: Mapping[str, Tensor]) -> LevelArrays:
    """The arrays of encoded features on the CPU.

    Raises FeatureError for features that are not finite, or too large for float16.
    """
    largest = encoded["_scale"] * _INT8_MAX if "_scale" in encoded else encoded[""]
    # They are read as float16, however they are stored.
    if not torch.isfinite(largest.half()).all():
        raise FeatureError(
            "the teacher's features do not fit float16; they are not finite, or too large"
        )
    return {suffix: tensor.numpy() for suffix, tensor in encoded.items()}


def decode(parts: LevelArrays, dtype: str) -> Tensor:
    """Features (..., C, h, w), float16, of what `encode` gave."""
    values = torch.from_numpy(parts[""])
    if dtype == "float16":
        return values
    return values.float().mul_(torch.from_numpy(parts["_scale"])[..., None, None]).half()
