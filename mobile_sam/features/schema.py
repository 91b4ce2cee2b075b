"""Schema of stored features: arrays, the fill value of unwritten rows, and errors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.system.errors import UserError

# What is stored of one level, by the suffix of its array: "" the values, "_scale" their scales.
LevelArrays = Mapping[str, NDArray[Any]]
# The same of several levels, by their names.
StoredFeatures = Mapping[str, LevelArrays]


class FeatureError(UserError):
    """A feature store that is missing, incomplete, damaged, or of something else."""


class DamagedError(FeatureError):
    """Features that were written and cannot be read any more."""


# Of each part: its dtype, and the value that no finite feature is stored as. It fills what was
# never written, so that a lost file is not taken for features of zero.
ARRAYS_OF_DTYPE: dict[str, dict[str, tuple[str, float]]] = {
    "float16": {"": ("float16", float("nan"))},
    "int8": {"": ("int8", -128), "_scale": ("float32", float("nan"))},
}


def check_written(parts: LevelArrays, dtype: str) -> None:
    """Raise DamagedError for parts that read as if nothing had been written."""
    for suffix, (_, missing) in ARRAYS_OF_DTYPE[dtype].items():
        first = parts[suffix].flat[0]
        if first == missing or np.isnan(first):
            raise DamagedError("a file is missing")
