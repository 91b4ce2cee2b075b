"""Zarr group of a feature store: an array for each level, and the row of each image.

Each image and view is a chunk with a CRC32C checksum; shards are written whole. The attributes of
the group hold the identity of the features; a store with another identity is refused.
"""

import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from mobile_sam.config.sections import level_name
from mobile_sam.data.index.digest_lookup import DIGEST_BYTES, Digests, as_digests
from mobile_sam.features.identity import Identity, level_shapes
from mobile_sam.features.schema import (
    ARRAYS_OF_DTYPE,
    DamagedError,
    FeatureError,
    StoredFeatures,
    check_written,
)
from mobile_sam.system.atomic_files import path_exists, remove_unfinished, unfinished_path
from mobile_sam.system.machine_errors import is_damage, naming

RowSpecs = dict[str, tuple[str, tuple[int, ...]]]  # dtype and row shape of each array
_UNREADABLE = (LookupError, ValueError, TypeError, OSError, AttributeError)
_REMEDY = "delete it or set train_img_dir_teacher_features to another path"


class NewerVersionError(FeatureError):
    """A store that a newer version of the package has written."""


class IdentityMismatchError(FeatureError):
    """A readable store with another identity than expected."""


def open_group(path: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    """Open the Zarr group at `path`. Raises FeatureError if it is missing or damaged.

    Only Zarr format 3 is opened, because it has no pickled objects. Each array is opened by its own
    metadata: consolidated metadata of the group could describe arrays of format 2.
    """
    with naming(path):
        exists = path_exists(path)
    if not exists:
        raise FeatureError(f"{path}: there is no feature store; run `extract`")
    try:
        with naming(path):
            return zarr.open_group(path, mode=mode, zarr_format=3, use_consolidated=False)
    except _UNREADABLE as error:
        if not is_damage(error):
            raise
        raise FeatureError(
            f"{path}: not a feature store, or a damaged one ({_first_line(error)}); {_REMEDY}"
        ) from error


def check_identity(path: Path, attributes: dict[str, Any], expected: Identity) -> None:
    """Compare the attributes of a store with the expected identity.

    Raises IdentityMismatchError if they differ, NewerVersionError for a store of a later version.
    """
    version = attributes.get("version")
    same_format = attributes.get("format") == expected["format"]
    if same_format and isinstance(version, int) and version > expected["version"]:
        raise NewerVersionError(
            f"{path}: the store has format version {version}, but this package reads version "
            f"{expected['version']}; install the newer mobile_sam that wrote it, or delete it"
        )
    differences = [
        f"{key} is {attributes.get(key)!r} instead of {value!r}"
        for key, value in expected.items()
        if attributes.get(key) != value
    ]
    if differences:
        raise IdentityMismatchError(
            f"{path}: the feature store does not match this run: {'; '.join(differences)}; "
            f"{_REMEDY}"
        )


def check_arrays(path: Path, group: zarr.Group, expected: RowSpecs) -> None:
    """Raise FeatureError unless all arrays exist with the expected dtype and row shape."""
    for name, (dtype, shape) in expected.items():
        try:
            with naming(path):
                array = group[name]
            sound = (
                isinstance(array, zarr.Array)
                and array.dtype == np.dtype(dtype)
                and array.shape[1:] == shape
            )
        except _UNREADABLE as error:
            if not is_damage(error):
                raise
            raise FeatureError(
                f"{path}: array {name!r} cannot be opened ({_first_line(error)}); {_REMEDY}"
            ) from error
        if not sound:
            raise FeatureError(
                f"{path}: array {name!r} does not have dtype {dtype} and rows of shape {shape}; "
                f"{_REMEDY}"
            )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


IMAGES_PER_SHARD = 64  # of a new store; a job owns whole shards


class FeatureArrays:
    """An open store. Rows are numbered from 0; a row not yet `written` has no features."""

    def __init__(self, path: Path, group: Any) -> None:
        self.path, self.group = path, group
        self.content: Identity = dict(group.attrs)
        self.used_by: list[str] = self.content.pop("used_by", [])
        # Recorded, but not part of the identity: readers on other machines accept any precision.
        self.precision: str | None = self.content.pop("precision", None)
        self.dtype: str = self.content["dtype"]
        self.views: list[str] = self.content["views"]
        self.levels = [level_name(level) for level in self.content["levels"]]
        self.shard: int = group[self.levels[0]].shards[0]
        # Opened once: opening an array reads a file.
        self._arrays = {
            level: {suffix: group[level + suffix] for suffix in ARRAYS_OF_DTYPE[self.dtype]}
            for level in self.levels
        }

    def record_precision(self, precision: str) -> None:
        """Record in the store's attributes the precision that its features are computed in."""
        self.group.attrs["precision"] = self.precision = precision

    def digests(self) -> Digests:
        """Return the digest of each row's image. Raises DamagedError."""
        digests = self._read_array("digests")
        # A killed planning job leaves rows of zeros at the end.
        return as_digests(digests[: int(np.count_nonzero(digests.any(axis=1)))].tobytes())

    def written(self) -> NDArray[np.bool_]:
        """Return for each row whether it has features. Raises DamagedError."""
        return self._read_array("written")[: len(self.digests())].astype(bool)

    def _read_array(self, name: str) -> NDArray[np.uint8]:
        """Read a whole array that lists images."""
        try:
            with naming(self.path):
                return self.group[name][:]
        except (ValueError, RuntimeError, OSError) as error:
            if not is_damage(error):
                raise
            raise DamagedError(
                f"{self.path}: the list of images is damaged ({error}); delete the store and run "
                "`extract` again"
            ) from error

    def read(self, row: int, view: int) -> StoredFeatures:
        """Return the features of one view of an image, by level. Raises DamagedError."""
        levels = {}
        for level, arrays in self._arrays.items():
            try:
                with naming(self.path):
                    parts = {suffix: array[row, view] for suffix, array in arrays.items()}
            except (ValueError, RuntimeError, OSError, IndexError) as error:
                if not is_damage(error):
                    raise
                reason = str(error).split(". ")[0]  # without the bytes of both checksums
                raise DamagedError(f"{level}: {reason}") from error
            check_written(parts, self.dtype)
            levels[level] = parts
        return levels

    def append(self, digests: Digests) -> None:
        """Add a row for each image, without features."""
        with naming(self.path):
            self._append(digests)

    def _append(self, digests: Digests) -> None:
        before = len(self.digests())
        rows = before + len(digests)
        # Room for whole shards, because shards are written whole.
        capacity = -(-rows // self.shard) * self.shard
        for array in [*self._level_arrays(), self.group["written"]]:
            array.resize((capacity, *array.shape[1:]))
        # The digests come last: they define the number of rows.
        self.group["digests"].resize((rows, DIGEST_BYTES))
        added = np.frombuffer(digests.tobytes(), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        self.group["digests"][before:] = added

    def write(self, start: int, block: StoredFeatures, written: NDArray[np.bool_]) -> None:
        """Write a whole shard, from row `start` on, and then which of its rows have features.

        block: values of all rows of the shard. written: (rows,) from `start` on.
        """
        end = start + self.shard
        flags = np.zeros(self.shard, dtype=np.uint8)
        flags[: len(written)] = written
        with naming(self.path):
            for level, arrays in self._arrays.items():
                for suffix, array in arrays.items():
                    array[start:end] = block[level][suffix]
            self.group["written"][start:end] = flags

    def forget(self, rows: list[int]) -> None:
        """Mark rows as having no features; delete the files of shards without any features."""
        if not rows:
            return
        written = self.written()
        written[rows] = False
        self.group["written"][: len(written)] = written.astype(np.uint8)
        for number in sorted({row // self.shard for row in rows}):
            if written[number * self.shard : (number + 1) * self.shard].any():
                continue
            # Zarr reads a shard's list of chunks before it writes, and fails if it is damaged.
            for array in self._level_arrays():
                key = array.metadata.encode_chunk_key((number,) + (0,) * (array.ndim - 1))
                (self.path / array.path / key).unlink(missing_ok=True)

    def blank(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the values of a shard in which nothing is written."""
        return {
            level: {
                suffix: np.full((self.shard, *array.shape[1:]), array.fill_value, array.dtype)
                for suffix, array in arrays.items()
            }
            for level, arrays in self._arrays.items()
        }

    def _level_arrays(self) -> list[Any]:
        return [array for arrays in self._arrays.values() for array in arrays.values()]


def create_arrays(path: Path, expected: Identity, shard: int | None = None) -> FeatureArrays:
    """Create a store without rows at `path`, which must not exist.

    shard: rows of a shard; IMAGES_PER_SHARD by default.
    """
    unfinished = unfinished_path(path)
    try:
        with naming(path, unfinished):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_unfinished(path.parent, path.name)
            unfinished.mkdir()
            _create(unfinished, expected, shard or IMAGES_PER_SHARD)
            unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return FeatureArrays(path, zarr.open_group(path, mode="r+"))


def _create(unfinished: Path, expected: Identity, shard: int) -> None:
    group = zarr.create_group(unfinished)
    for level, shape in level_shapes(expected).items():
        for suffix, (dtype, missing) in ARRAYS_OF_DTYPE[expected["dtype"]].items():
            row = shape if suffix == "" else shape[:2]
            group.create_array(
                level + suffix,
                shape=(0, *row),
                chunks=(1, 1, *row[1:]),
                shards=(shard, *row),
                dtype=dtype,
                fill_value=missing,
                compressors=[Crc32cCodec()],
            )
    crc: dict[str, Any] = {"dtype": "uint8", "compressors": [Crc32cCodec()]}
    group.create_array("digests", shape=(0, DIGEST_BYTES), chunks=(4096, DIGEST_BYTES), **crc)
    group.create_array("written", shape=(0,), chunks=(shard,), **crc)
    group.attrs.update(expected)


def open_arrays(path: Path, expected: Identity, mode: Literal["r", "r+"] = "r") -> FeatureArrays:
    """Open the store at `path` and compare its identity with `expected`.

    Raises FeatureError if the store is missing, damaged, or has another identity.
    """
    group = open_group(path, mode)
    check_identity(path, dict(group.attrs), expected)
    check_arrays(path, group, _row_specs(expected))
    return FeatureArrays(path, group)


def _row_specs(expected: Identity) -> RowSpecs:
    """Return the dtype and shape of a row of each array of a store."""
    rows: RowSpecs = {"digests": ("uint8", (DIGEST_BYTES,)), "written": ("uint8", ())}
    for level, shape in level_shapes(expected).items():
        for suffix, (dtype, _) in ARRAYS_OF_DTYPE[expected["dtype"]].items():
            rows[level + suffix] = dtype, shape if suffix == "" else shape[:2]
    return rows
