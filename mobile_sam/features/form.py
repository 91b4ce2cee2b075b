"""The form of a store on disk, looked at before anything in it is read."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from mobile_sam.faults import fault
from mobile_sam.features.parts import FeatureError

# Of each array: its dtype, and the shape of one row.
Rows = dict[str, tuple[str, tuple[int, ...]]]
_UNREADABLE = (LookupError, ValueError, TypeError, OSError, AttributeError)
_REMEDY = "delete it or set train_img_dir_teacher_features to another path"


class NewerError(FeatureError):
    """A store that a newer version of the package has written."""


def open_group(path: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    """The Zarr group at `path`. Raises FeatureError when there is none.

    Only the third format is opened, which has no objects that are pickled, and each array by its
    own metadata: those of the group could describe arrays of the second.
    """
    if not path.exists():
        raise FeatureError(f"{path}: there is no feature store; run `extract`")
    try:
        return zarr.open_group(path, mode=mode, zarr_format=3, use_consolidated=False)
    except _UNREADABLE as error:
        if fault(error):
            raise
        raise FeatureError(
            f"{path}: not a feature store, or a damaged one ({_first_line(error)}); {_REMEDY}"
        ) from error


def check_identity(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise FeatureError for a store of something else, NewerError for one of a later version."""
    version = found.get("version")
    same = found.get("format") == expected["format"]
    if same and isinstance(version, int) and version > expected["version"]:
        raise NewerError(
            f"{path}: a store of format version {version}, and this package reads "
            f"{expected['version']}; install the newer mobile_sam that wrote it, or delete it"
        )
    differing = [
        f"{key} is {found.get(key)!r} instead of {value!r}"
        for key, value in expected.items()
        if found.get(key) != value
    ]
    if differing:
        raise FeatureError(
            f"{path}: the feature store belongs to something else: {'; '.join(differing)}; "
            f"{_REMEDY}"
        )


def check_arrays(path: Path, group: zarr.Group, expected: Rows) -> None:
    """Raise FeatureError unless all arrays are there, and made for what they are to hold."""
    for name, (dtype, shape) in expected.items():
        try:
            array = group[name]
            sound = (
                isinstance(array, zarr.Array)
                and array.dtype == np.dtype(dtype)
                and array.shape[1:] == shape
            )
        except _UNREADABLE as error:
            if fault(error):
                raise
            raise FeatureError(
                f"{path}: array {name!r} cannot be opened ({_first_line(error)}); {_REMEDY}"
            ) from error
        if not sound:
            raise FeatureError(f"{path}: {name!r} is not {dtype} of (rows, *{shape}); {_REMEDY}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
