"""Schema of stored features: arrays, the fill value of unwritten rows, and errors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.system.errors import UserError

# Arrays of one level by the suffix of their names: "" for the values, "_scale" for their scales.
LevelArrays = Mapping[str, NDArray[Any]]
StoredFeatures = Mapping[str, LevelArrays]  # by level name


class FeatureError(UserError):
    """A feature store that is missing, incomplete, damaged, or has another identity."""


class DamagedError(FeatureError):
    """Features that were written and can no longer be read."""


# Arrays of a dtype by suffix: their dtype, and the fill value of rows never written. No finite
# feature is stored as the fill value, so that a lost file is not read as features of zero.
ARRAYS_OF_DTYPE: dict[str, dict[str, tuple[str, float]]] = {
    "float16": {"": ("float16", float("nan"))},
    "int8": {"": ("int8", -128), "_scale": ("float32", float("nan"))},
}


def check_written(parts: LevelArrays, dtype: str) -> None:
    """Raise DamagedError if the arrays of a level begin with the fill value."""
    for suffix, (_, missing) in ARRAYS_OF_DTYPE[dtype].items():
        first = parts[suffix].flat[0]
        if first == missing or np.isnan(first):
            raise DamagedError("a file is missing")
