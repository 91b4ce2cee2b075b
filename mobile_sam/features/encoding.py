"""How features become numbers on disk: float16, or int8 with a scale for each channel."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_sam.config import UserError

# What is stored of one level, by the suffix of its array: "" the values, "_scale" their scales.
Parts = Mapping[str, NDArray[Any]]
# The same of several levels, by their names.
Stored = Mapping[str, Parts]

_INT8_MOST = 127


class FeatureError(UserError):
    """A feature store that is missing, incomplete, damaged, or of something else."""


class DamagedError(FeatureError):
    """Features that were written and cannot be read any more."""


# Of each part: its dtype, and the value that no finite feature is stored as. It fills what was
# never written, so that a lost file is not taken for features of zero.
PARTS: dict[str, dict[str, tuple[str, float]]] = {
    "float16": {"": ("float16", float("nan"))},
    "int8": {"": ("int8", -128), "_scale": ("float32", float("nan"))},
}


def encode(features: Tensor, dtype: str) -> dict[str, Tensor]:
    """What is stored of features (..., C, h, w): the same shape, and for int8 scales (..., C).

    Stays on the device, and waits for nothing; `to_parts` says whether it can be stored.
    """
    if dtype == "float16":
        return {"": features.half()}
    values = features.float()
    scale = values.abs().amax((-2, -1)) / _INT8_MOST
    # A channel of zeros has scale 0, and stays zero.
    steps = values / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None, None]
    return {"": steps.round().to(torch.int8), "_scale": scale}


def to_parts(encoded: Mapping[str, Tensor]) -> Parts:
    """The arrays of encoded features on the CPU.

    Raises FeatureError for features that are not finite, or too large for float16.
    """
    largest = encoded["_scale"] * _INT8_MOST if "_scale" in encoded else encoded[""]
    # They are read as float16, however they are stored.
    if not torch.isfinite(largest.half()).all():
        raise FeatureError(
            "the teacher's features do not fit float16; they are not finite, or too large"
        )
    return {suffix: tensor.numpy() for suffix, tensor in encoded.items()}


def decode(parts: Parts, dtype: str) -> Tensor:
    """Features (..., C, h, w), float16, of what `encode` gave."""
    values = torch.from_numpy(parts[""])
    if dtype == "float16":
        return values
    return values.float().mul_(torch.from_numpy(parts["_scale"])[..., None, None]).half()


def check_written(parts: Parts, dtype: str) -> None:
    """Raise DamagedError for parts that read as if nothing had been written."""
    for suffix, (_, missing) in PARTS[dtype].items():
        first = parts[suffix].flat[0]
        if first == missing or np.isnan(first):
            raise DamagedError("a file is missing")
