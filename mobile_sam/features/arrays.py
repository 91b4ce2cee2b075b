"""The Zarr group of a store: an array for each level, and which image has which row.

One chunk for each image and view, with a crc32c; whole shards. The attributes of the group say
what the features are of; a store of something else is refused.
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

# Of each array: its dtype, and the shape of one row.
RowSpecs = dict[str, tuple[str, tuple[int, ...]]]
_UNREADABLE = (LookupError, ValueError, TypeError, OSError, AttributeError)
_REMEDY = "delete it or set train_img_dir_teacher_features to another path"


class NewerVersionError(FeatureError):
    """A store that a newer version of the package has written."""


class IdentityMismatchError(FeatureError):
    """A store of something else: it was read, and what it says that it is differs."""


def open_group(path: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    """The Zarr group at `path`. Raises FeatureError when there is none.

    Only the third format is opened, which has no objects that are pickled, and each array by its
    own metadata: those of the group could describe arrays of the second.
    """
    with naming(path):
        there = path_exists(path)
    if not there:
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


def check_identity(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise OtherError for a store of something else, NewerError for one of a later version."""
    version = found.get("version")
    same = found.get("format") == expected["format"]
    if same and isinstance(version, int) and version > expected["version"]:
        raise NewerVersionError(
            f"{path}: a store of format version {version}, and this package reads "
            f"{expected['version']}; install the newer mobile_sam that wrote it, or delete it"
        )
    differing = [
        f"{key} is {found.get(key)!r} instead of {value!r}"
        for key, value in expected.items()
        if found.get(key) != value
    ]
    if differing:
        raise IdentityMismatchError(
            f"{path}: the feature store belongs to something else: {'; '.join(differing)}; "
            f"{_REMEDY}"
        )


def check_arrays(path: Path, group: zarr.Group, expected: RowSpecs) -> None:
    """Raise FeatureError unless all arrays are there, and made for what they are to hold."""
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
            raise FeatureError(f"{path}: {name!r} is not {dtype} of (rows, *{shape}); {_REMEDY}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


IMAGES_PER_SHARD = 64  # images of a new store; a job owns whole shards


class FeatureArrays:
    """An open store. Rows are numbered from 0; a row without `written` has no features yet."""

    def __init__(self, path: Path, group: Any) -> None:
        self.path, self.group = path, group
        self.content: Identity = dict(group.attrs)
        self.used_by: list[str] = self.content.pop("used_by", [])
        # Recorded and no part of the identity: a reader on another machine takes what is there.
        self.precision: str | None = self.content.pop("precision", None)
        self.dtype: str = self.content["dtype"]
        self.views: list[str] = self.content["views"]
        self.levels = [level_name(level) for level in self.content["levels"]]
        self.shard: int = group[self.levels[0]].shards[0]
        # Looked up once: finding an array by its name reads a file.
        self._arrays = {
            level: {suffix: group[level + suffix] for suffix in ARRAYS_OF_DTYPE[self.dtype]}
            for level in self.levels
        }

    def record_precision(self, precision: str) -> None:
        """Say in the store's attributes what its features are computed in."""
        self.group.attrs["precision"] = self.precision = precision

    def digests(self) -> Digests:
        """The digest of each row's image; raises DamagedError."""
        digests = self._whole("digests")
        # A planning job that was killed leaves rows of zeros at the end.
        return as_digests(digests[: int(np.count_nonzero(digests.any(axis=1)))].tobytes())

    def written(self) -> NDArray[np.bool_]:
        """Which of the rows have features; raises DamagedError."""
        return self._whole("written")[: len(self.digests())].astype(bool)

    def _whole(self, name: str) -> NDArray[np.uint8]:
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
        """Return the features of one view of an image, by level; raises DamagedError."""
        found = {}
        for level, arrays in self._arrays.items():
            try:
                with naming(self.path):
                    parts = {suffix: array[row, view] for suffix, array in arrays.items()}
            except (ValueError, RuntimeError, OSError, IndexError) as error:
                if not is_damage(error):
                    raise
                reason = str(error).split(". ")[0]  # and not the bytes of two checksums
                raise DamagedError(f"{level}: {reason}") from error
            check_written(parts, self.dtype)
            found[level] = parts
        return found

    def append(self, digests: Digests) -> None:
        """Give each image a row, without features as yet."""
        with naming(self.path):
            self._append(digests)

    def _append(self, digests: Digests) -> None:
        before = len(self.digests())
        rows = before + len(digests)
        # Room for whole shards, as they are written.
        room = -(-rows // self.shard) * self.shard
        arrays = [array for parts in self._arrays.values() for array in parts.values()]
        for array in [*arrays, self.group["written"]]:
            array.resize((room, *array.shape[1:]))
        # The digests come last: they say how many rows there are.
        self.group["digests"].resize((rows, DIGEST_BYTES))
        added = np.frombuffer(digests.tobytes(), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        self.group["digests"][before:] = added

    def write(self, start: int, block: StoredFeatures, written: NDArray[np.bool_]) -> None:
        """Write a whole shard, from row `start` on, and only then which rows have features."""
        end = start + self.shard
        flags = np.zeros(self.shard, dtype=np.uint8)
        flags[: len(written)] = written
        with naming(self.path):
            for level, arrays in self._arrays.items():
                for suffix, array in arrays.items():
                    array[start:end] = block[level][suffix]
            self.group["written"][start:end] = flags

    def forget(self, rows: list[int]) -> None:
        """Say that rows have no features, and remove the files in which none is left."""
        if not rows:
            return
        written = self.written()
        written[rows] = False
        self.group["written"][: len(written)] = written.astype(np.uint8)
        for number in sorted({row // self.shard for row in rows}):
            if written[number * self.shard : (number + 1) * self.shard].any():
                continue
            # Zarr reads the list of chunks of a shard before it writes; a damaged one stops it.
            for array in (a for parts in self._arrays.values() for a in parts.values()):
                key = array.metadata.encode_chunk_key((number,) + (0,) * (array.ndim - 1))
                (self.path / array.path / key).unlink(missing_ok=True)

    def blank(self) -> dict[str, dict[str, NDArray[Any]]]:
        """A shard, filled with what stands for nothing written."""
        return {
            level: {
                suffix: np.full((self.shard, *array.shape[1:]), array.fill_value, array.dtype)
                for suffix, array in arrays.items()
            }
            for level, arrays in self._arrays.items()
        }


def create_arrays(path: Path, expected: Identity, shard: int | None = None) -> FeatureArrays:
    """A new store without rows at `path`, where nothing may be."""
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
            one = shape if suffix == "" else shape[:2]
            group.create_array(
                level + suffix,
                shape=(0, *one),
                chunks=(1, 1, *one[1:]),
                shards=(shard, *one),
                dtype=dtype,
                fill_value=missing,
                compressors=[Crc32cCodec()],
            )
    crc: dict[str, Any] = {"dtype": "uint8", "compressors": [Crc32cCodec()]}
    group.create_array("digests", shape=(0, DIGEST_BYTES), chunks=(4096, DIGEST_BYTES), **crc)
    group.create_array("written", shape=(0,), chunks=(shard,), **crc)
    group.attrs.update(expected)


def open_arrays(path: Path, expected: Identity, mode: Literal["r", "r+"] = "r") -> FeatureArrays:
    """The store at `path`, after its identity has been compared with `expected`.

    Raises FeatureError for a store that is missing, or of something else.
    """
    group = open_group(path, mode)
    check_identity(path, dict(group.attrs), expected)
    check_arrays(path, group, _row_specs(expected))
    return FeatureArrays(path, group)


def _row_specs(expected: Identity) -> RowSpecs:
    """Shapes and dtypes of an image's row in each array of a store."""
    rows: RowSpecs = {"digests": ("uint8", (DIGEST_BYTES,)), "written": ("uint8", ())}
    for level, shape in level_shapes(expected).items():
        for suffix, (dtype, _) in ARRAYS_OF_DTYPE[expected["dtype"]].items():
            rows[level + suffix] = dtype, shape if suffix == "" else shape[:2]
    return rows
