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

from mobile_sam.data.digests import DIGEST_BYTES, Digests, as_digests
from mobile_sam.faults import fault, naming
from mobile_sam.features.form import Rows, check_arrays, check_identity, open_group
from mobile_sam.features.identity import Identity, level_shapes
from mobile_sam.features.parts import PARTS, DamagedError, Stored, check_written
from mobile_sam.files import unfinished_path
from mobile_sam.options import level_name

SHARD = 64  # images of a new store; a job owns whole shards


class FeatureArrays:
    """An open store. Rows are numbered from 0; a row without `written` has no features yet."""

    def __init__(self, path: Path, group: Any) -> None:
        self.path, self.group = path, group
        self.content: Identity = dict(group.attrs)
        self.used_by: list[str] = self.content.pop("used_by", [])
        self.dtype: str = self.content["dtype"]
        self.views: list[str] = self.content["views"]
        self.levels = [level_name(level) for level in self.content["levels"]]
        self.shard: int = group[self.levels[0]].shards[0]
        # Looked up once: finding an array by its name reads a file.
        self._arrays = {
            level: {suffix: group[level + suffix] for suffix in PARTS[self.dtype]}
            for level in self.levels
        }

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
            return self.group[name][:]
        except (ValueError, RuntimeError, OSError) as error:
            if fault(error):
                raise
            raise DamagedError(
                f"{self.path}: the list of images is damaged ({error}); delete the store and run "
                "`extract` again"
            ) from error

    def read(self, row: int, view: int) -> Stored:
        """What is stored of one view of an image, by level; raises DamagedError with the reason."""
        found = {}
        for level, arrays in self._arrays.items():
            try:
                parts = {suffix: array[row, view] for suffix, array in arrays.items()}
            except (ValueError, RuntimeError, OSError, IndexError) as error:
                if fault(error):
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

    def write(self, start: int, block: Stored, written: NDArray[np.bool_]) -> None:
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
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _create(unfinished, expected, shard or SHARD)
            unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return FeatureArrays(path, zarr.open_group(path, mode="r+"))


def _create(unfinished: Path, expected: Identity, shard: int) -> None:
    group = zarr.create_group(unfinished)
    for level, shape in level_shapes(expected).items():
        for suffix, (dtype, missing) in PARTS[expected["dtype"]].items():
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
    check_arrays(path, group, _rows(expected))
    return FeatureArrays(path, group)


def _rows(expected: Identity) -> Rows:
    """What the arrays of a store hold of each image."""
    rows: Rows = {"digests": ("uint8", (DIGEST_BYTES,)), "written": ("uint8", ())}
    for level, shape in level_shapes(expected).items():
        for suffix, (dtype, _) in PARTS[expected["dtype"]].items():
            rows[level + suffix] = dtype, shape if suffix == "" else shape[:2]
    return rows
