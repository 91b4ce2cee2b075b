"""The index of a data set: a parquet file with one row for each segment.

It holds masks as run-length codes, so that training reads no file but the image. All rows of an
image are in one row group, and only this group is read for the image: the memory of training does
not depend on the number of images.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mobile_sam.config.sections import ImageOptions, Tile
from mobile_sam.data.images import (
    DEFAULT_OPTIONS,
    RecordError,
    changed_error,
    read_image,
    read_verified,
)
from mobile_sam.data.index.digest_lookup import Digests, from_hex
from mobile_sam.data.masks import Mask, decode, decode_crop, union
from mobile_sam.data.tiles import Window, parse_tile_id
from mobile_sam.data.windows import DecodedImages, pixel_digest, read_window
from mobile_sam.metrics.mask_crop import MaskCrop
from mobile_sam.system.errors import UserError
from mobile_sam.system.machine_errors import machine_fault

SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("image", pa.int32()),  # number within the split; null for rows not in use
        ("image_id", pa.string()),
        ("image_path", pa.string()),
        ("image_digest", pa.string()),  # of the file's bytes
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("format", pa.string()),  # see `records`
        ("segment_id", pa.string()),
        ("class", pa.string()),
        ("mask_path", pa.string()),
        ("rle", pa.binary()),  # null where the image has no segment
        ("x0", pa.int32()),
        ("y0", pa.int32()),
        ("x1", pa.int32()),
        ("y1", pa.int32()),
        ("area", pa.int64()),
        ("left_out", pa.string()),  # why the segment or image is not used; null if it is
    ],
    metadata={"format": "mobile_sam index", "version": "2"},
)
SPLITS = ("train", "val")
UNLABELLED = "unlabelled"  # the split of images without masks, one row each
# Reasons to leave out a segment whose pixels count neither as segment nor as background.
CROWDS, IGNORED = "crowds", "ignored"
_CACHED_ROW_GROUPS = 2
_MIN_SIDE = 0.5  # in pixels of the model frame; rounds to one pixel
_COLUMNS = [
    *("image", "image_id", "image_path", "image_digest", "height", "width"),
    *("segment_id", "class", "rle", "x0", "y0", "x1", "y1", "area", "left_out"),
]


class DatasetError(UserError):
    """Images or annotations that cannot be used; the message lists all of them."""


@dataclass(frozen=True)
class Segment:
    """One ground-truth object. box: xyxy in pixels of the image frame, x1 and y1 exclusive."""

    segment_id: str
    rle: bytes
    box: tuple[int, int, int, int]
    area: int
    class_name: str | None = None


@dataclass(frozen=True)
class IndexedImage:
    """One image of the index with its segments; an image without masks has none.

    size: (H, W) in pixels. ignored: segments whose pixels are neither object nor background.
    options: how the file is decoded into pixels. window: of a tile, which is part of an image; its
    size and its segments are those of the tile. cache: decoded images, for tiles.
    """

    image_id: str
    path: Path
    digest: str
    size: tuple[int, int]
    segments: tuple[Segment, ...]
    ignored: tuple[Segment, ...] = ()
    options: ImageOptions = DEFAULT_OPTIONS
    window: Window | None = None
    cache: DecodedImages | None = None

    def mask(self, segment: Segment) -> Mask:
        """Decode the mask (H, W) of one of the segments."""
        return decode(segment.rle, self.size)

    def cropped_mask(self, segment: Segment) -> MaskCrop:
        """Decode the mask of one of the segments, cropped to its box."""
        return decode_crop(segment.rle, self.size, segment.box)

    def unknown(self) -> Mask:
        """Return the pixels (H, W) of ignored segments that no segment in use covers."""
        ignored, known = (
            union([segment.rle for segment in segments], self.size)
            for segments in (self.ignored, self.segments)
        )
        return ignored & ~known


def read_indexed_image(record: IndexedImage) -> NDArray[np.uint8]:
    """Read the RGB pixels (H, W, 3) of an image. Raises RecordError if its size has changed."""
    pixels = _read_pixels(record)
    if pixels.shape[:2] != record.size:
        raise RecordError(
            f"{record.path}: the image changed since it was indexed; run `index` again"
        )
    return pixels


def read_verified_image(record: IndexedImage) -> NDArray[np.uint8]:
    """Read the RGB pixels (H, W, 3) of an image. Raises RecordError if they have changed."""
    if record.window is None:
        return read_verified(record.path, record.options, record.digest)
    pixels = _read_pixels(record)
    if pixel_digest(pixels) != record.digest:
        raise changed_error(record.path)
    return pixels


def _read_pixels(record: IndexedImage) -> NDArray[np.uint8]:
    if record.window is None or record.cache is None:
        return read_image(record.path, record.options)
    return read_window(record.path, record.options, record.window, record.cache)


def open_index(path: Path) -> pq.ParquetFile:
    """Open the parquet file of an index.

    Raises DatasetError if the file is missing, damaged, no index, or of another version.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: there is no index; run `python -m mobile_sam index`")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        if machine_fault(error):
            raise
        raise DatasetError(
            f"{path}: not an index, or a damaged one ({error}); delete it and index again"
        ) from error
    metadata, expected = file.schema_arrow.metadata or {}, SCHEMA.metadata
    if (
        metadata.get(b"format") != expected[b"format"]
        or b"mobile_sam" not in file.metadata.metadata
    ):
        raise DatasetError(f"{path}: not an index but another table; delete it and index again")
    if metadata.get(b"version") != expected[b"version"]:
        raise DatasetError(
            f"{path}: the index has version {metadata.get(b'version', b'0').decode()}, but this "
            f"package reads version {expected[b'version'].decode()}; delete it and index again"
        )
    return file


def index_metadata(file: pq.ParquetFile) -> dict[str, Any]:
    """Return the metadata: row groups and counts of each split, and the broken files left out."""
    return json.loads(file.metadata.metadata[b"mobile_sam"])


def notes_path(index: Path) -> Path:
    """Return the path of the notes of an index: files that were not read, and why."""
    return index.with_suffix(".notes.json")


def options_metadata(options: ImageOptions) -> dict[str, Any]:
    """Return metadata of how images are read: key `images`, unless all options are defaults."""
    changed = options.model_dump(exclude_defaults=True, include=set(ImageOptions.model_fields))
    return {"images": changed} if changed else {}


def image_options(file: pq.ParquetFile) -> ImageOptions:
    """Return how the images of an index are read."""
    return ImageOptions.model_validate(index_metadata(file).get("images", {}))


def tile_cache(file: pq.ParquetFile, path: Path) -> DecodedImages | None:
    """Return the decoded images beside an index of tiles; None for an index without tiles."""
    tile = index_metadata(file).get("tile")
    return None if tile is None else decoded_beside(path, Tile.model_validate(tile))


def decoded_beside(index: Path, tile: Tile) -> DecodedImages:
    """Return the decoded images of an index."""
    return DecodedImages(index.with_name("decoded"), tile.cache_gb)


def check_shapes(path: Path, img_size: int) -> None:
    """Raise DatasetError that lists images in use too thin for a frame of `img_size` pixels.

    An image is too thin if its shorter side is less than half a pixel of the model frame.
    """
    table = open_index(path).read(columns=["image_path", "height", "width", "left_out"])
    table = table.filter(pc.is_null(table["left_out"]))
    height, width = (table[side].to_numpy() for side in ("height", "width"))
    thin = np.minimum(height, width) * (img_size / np.maximum(height, width)) < _MIN_SIDE
    paths = sorted(set(table["image_path"].filter(pa.array(thin)).to_pylist()))
    if paths:
        raise DatasetError(
            f"{len(paths)} images are thinner than one pixel at img_size {img_size}: "
            f"{', '.join(paths[:10])}{', ...' if len(paths) > 10 else ''}; cut them into pieces, "
            "leave them out with data.subset, or raise img_size"
        )


class Index:
    """The images in use of one split, in the order of the index.

    In `train` and `val`, an image is in use if one of its segments is; in `unlabelled`, if it is in
    neither of the other two splits.

    metadata: for tables that are made from the images: how they are read and cut.
    Each process opens the file at its first access, because an open file must not cross a fork.
    Raises DatasetError when the file is missing, or has no image of the split.
    """

    def __init__(self, path: Path, split: str) -> None:
        file = open_index(path)
        counts = index_metadata(file)["splits"].get(split, {"images": 0})
        if counts["images"] == 0:
            raise DatasetError(f"{path}: the index has no image for {split!r}")
        self._path = path
        self._options = image_options(file)
        self._cache = tile_cache(file, path)
        tile = {} if self._cache is None else {"tile": index_metadata(file)["tile"]}
        self.metadata = options_metadata(self._options) | tile
        self._length: int = counts["images"]
        self.objects: int = counts["segments"]  # in use
        groups = range(counts["first_group"], counts["first_group"] + counts["groups"])
        first_images = ((group, _first_image(file, group)) for group in groups)
        used_groups = [(group, first) for group, first in first_images if first is not None]
        self._groups, self._first_images = np.array(used_groups, dtype=np.int64).T
        self._file: pq.ParquetFile | None = None
        self._opened: OrderedDict[int, tuple[NDArray[np.int32], pa.Table]] = OrderedDict()
        self._opened_by: int | None = None

    @property
    def options(self) -> ImageOptions:
        """Return how the images are read."""
        return self._options

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> IndexedImage:
        if not 0 <= position < self._length:
            raise IndexError(position)
        number = int(np.searchsorted(self._first_images, position, side="right")) - 1
        images, table = self._group(int(self._groups[number]))
        start, end = np.searchsorted(images, [position, position + 1])
        rows = table.slice(start, end - start).to_pylist()
        first = rows[0]
        image_id, size = first["image_id"], (first["height"], first["width"])
        return IndexedImage(
            image_id=image_id,
            path=Path(first["image_path"]),
            digest=first["image_digest"],
            size=size,
            segments=tuple(
                _segment(row) for row in rows if row["left_out"] is None and row["rle"] is not None
            ),
            ignored=tuple(_segment(row) for row in rows if row["left_out"] is not None),
            options=self._options,
            window=None if self._cache is None else parse_tile_id(image_id, size),
            cache=self._cache,
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_opened": OrderedDict(), "_opened_by": None}

    def object_counts(self) -> NDArray[np.int64]:
        """Return the number of segments in use of each image."""
        counts = np.zeros(len(self), dtype=np.int64)
        columns = ["image", "rle", "left_out"]
        for batch in open_index(self._path).iter_batches(
            row_groups=self._groups.tolist(), columns=columns, use_threads=False
        ):
            used = pc.and_(pc.is_valid(batch["rle"]), pc.is_null(batch["left_out"]))
            images = batch["image"].filter(used).drop_null()
            counts += np.bincount(images.to_numpy(), minlength=len(self))
        return counts

    def digests(self) -> Digests:
        """Return the digest of each image's bytes, in order."""
        digests, last = [], -1
        for batch in open_index(self._path).iter_batches(
            row_groups=self._groups.tolist(), columns=["image", "image_digest"], use_threads=False
        ):
            rows = batch.filter(batch["image"].is_valid())
            images = np.r_[last, rows["image"].to_numpy()]
            last = images[-1]
            starts = np.flatnonzero(images[1:] != images[:-1])
            digests.append(from_hex(rows["image_digest"].take(starts).to_pylist()))
        return np.concatenate(digests)

    def _group(self, number: int) -> tuple[NDArray[np.int32], pa.Table]:
        """Return the rows of a row group as in `_select_image_rows`; cache the last row groups."""
        if self._file is None or self._opened_by != os.getpid():
            self._file, self._opened_by = open_index(self._path), os.getpid()
            self._opened.clear()
        if number in self._opened:
            self._opened.move_to_end(number)
        else:
            table = self._file.read_row_group(number, columns=_COLUMNS, use_threads=False)
            self._opened[number] = _select_image_rows(table)
            if len(self._opened) > _CACHED_ROW_GROUPS:
                self._opened.popitem(last=False)
        return self._opened[number]


def _segment(row: dict[str, Any]) -> Segment:
    box = (row["x0"], row["y0"], row["x1"], row["y1"])
    return Segment(row["segment_id"], row["rle"], box, row["area"], row["class"])


def _select_image_rows(table: pa.Table) -> tuple[NDArray[np.int32], pa.Table]:
    """Select the rows of images in use; return the image number of each row, and the rows.

    The rows of an image are consecutive, those in use first; only these have its number in `table`.
    """
    ignored = pc.is_in(table["left_out"], value_set=pa.array([CROWDS, IGNORED]))
    table = table.filter(pc.or_(pc.is_valid(table["image"]), ignored)).combine_chunks()
    if table["image"].null_count:
        in_use = table["image"].is_valid().to_numpy()
        last = np.maximum.accumulate(np.where(in_use, np.arange(len(in_use)), 0))
        same = pc.equal(table["image_id"], table["image_id"].take(last))
        numbers = pc.fill_null_forward(table["image"])
        # Drops ignored segments of images that are not in use.
        selected = pc.and_(same, pc.is_valid(numbers))
        column = table.schema.get_field_index("image")
        table = table.set_column(column, "image", numbers).filter(selected).combine_chunks()
    return table["image"].to_numpy(), table


def _first_image(file: pq.ParquetFile, group: int) -> int | None:
    """Return the number of the first image in use of a row group, or None; reads statistics."""
    statistics = file.metadata.row_group(group).column(SCHEMA.get_field_index("image")).statistics
    return int(statistics.min) if statistics.has_min_max else None


class ConcatIndex:
    """Concatenation of several indexes."""

    def __init__(self, parts: Sequence[Index]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, position: int) -> IndexedImage:
        if not 0 <= position < len(self):
            raise IndexError(position)
        number = int(np.searchsorted(self._ends, position, side="right"))
        part = self._parts[number]
        return part[position - int(self._ends[number]) + len(part)]

    def digests(self) -> Digests:
        """Return the digest of each image's bytes, in order."""
        return np.concatenate([part.digests() for part in self._parts])


def teacher_images(index: Path) -> ConcatIndex:
    """Return the images that teachers see: the training images, then the images without masks."""
    splits = index_metadata(open_index(index))["splits"]
    return ConcatIndex([Index(index, split) for split in ("train", UNLABELLED) if split in splits])
