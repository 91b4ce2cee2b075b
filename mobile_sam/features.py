"""Teacher features on disk: computed once, shared by runs, verified on each read.

A Zarr v3 group with one chunk an image, whole shards, float16 and a crc32c of each chunk. Its
attributes say what the features are of; a store of something else is refused.
"""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import zarr
from torch import Tensor

from mobile_sam.config import RunConfig, UserError
from mobile_sam.data.index import IndexedImage
from mobile_sam.models.roles import teacher_digest

DIGEST_BYTES = 16


class FeatureError(UserError):
    """A feature store that is missing, incomplete, damaged, or of something else."""


def identity(config: RunConfig) -> dict[str, Any]:
    """What features of this run's teacher are: two stores with equal identity are exchangeable."""
    return {
        "format": "mobile_sam teacher features",
        "version": 1,
        "teacher_sha256": teacher_digest(config),
        "teacher_model_type": config.teacher_model_type,
        "level": config.distill_feature_level,
        "img_size": config.img_size,
        "dtype": "float16",
        "preprocessing": "longest side to img_size, bilinear; ImageNet mean and std; zero padding",
    }


class FeatureStore:
    """Features of images, by the digest of an image's bytes.

    The Zarr group is opened at the first read in each process, because it must not be carried
    over a fork. Raises FeatureError for a store that is missing or of something else.
    """

    def __init__(self, path: Path, expected: dict[str, Any]) -> None:
        self.path = path
        self.expected = expected
        self._opened_by: int | None = None

    def read(self, record: IndexedImage, view: str = "identity") -> Tensor:
        """Features (C, S/16, S/16) of a view of an image, float32.

        Raises FeatureError when the image has none yet or its chunk fails the checksum.
        """
        if view != "identity":
            raise FeatureError(f"{self.path}: there are no features of the view {view!r}")
        self._open()
        row = self._rows.get(bytes.fromhex(record.digest))
        if row is None:
            raise FeatureError(f"{self.path}: no features for {record.path}; run `extract` again")
        try:
            return torch.from_numpy(self._features[row].astype(np.float32))
        except (ValueError, RuntimeError, OSError) as error:
            raise FeatureError(
                f"{self.path}: the features of {record.path} (row {row}) are damaged ({error}); "
                f"delete the store and run `extract` again"
            ) from error

    def _open(self) -> None:
        if self._opened_by == os.getpid():
            return
        group = open_group(self.path, self.expected)
        self._features = group["features"]
        written = group["written"][:].astype(bool)
        digests = group["digests"][:]
        self._rows = {digests[row].tobytes(): int(row) for row in np.flatnonzero(written)}
        self._opened_by = os.getpid()


def open_group(path: Path, expected: dict[str, Any], mode: Literal["r", "r+"] = "r") -> Any:
    """The Zarr group of a store, after its identity has been compared with `expected`."""
    if not (path / "zarr.json").is_file():
        raise FeatureError(f"{path}: there is no feature store; run `extract`")
    group = zarr.open_group(path, mode=mode)
    found = dict(group.attrs)
    differing = [
        f"{key} is {found.get(key)!r} instead of {value!r}"
        for key, value in expected.items()
        if found.get(key) != value
    ]
    if differing:
        raise FeatureError(
            f"{path}: the feature store belongs to something else: {'; '.join(differing)}; "
            "delete it or set train_img_dir_teacher_features to another path"
        )
    return group
