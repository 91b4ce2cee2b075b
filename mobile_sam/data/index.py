"""The index of a data set: one row for each segment, in a parquet file.

Masks are kept in it as run-length codes, so that training reads the image and nothing else.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mobile_sam.config import UserError
from mobile_sam.data.masks import Mask, bounding_box, decode, encode
from mobile_sam.data.records import (
    Record,
    RecordError,
    find_records,
    read_image,
    read_segments,
)

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("image_id", pa.string()),
        ("image_path", pa.string()),
        ("image_digest", pa.string()),  # of the file's bytes
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("format", pa.string()),  # see `records`
        ("segment_id", pa.string()),
        ("mask_path", pa.string()),
        ("rle", pa.binary()),
        ("x0", pa.int32()),
        ("y0", pa.int32()),
        ("x1", pa.int32()),
        ("y1", pa.int32()),
        ("area", pa.int64()),
    ],
    metadata={"format": "mobile_sam index", "version": "1"},
)
SPLITS = ("train", "val")
_IMAGES_PER_TASK = 16
_MOST_PROBLEMS = 50


class DatasetError(UserError):
    """Images or masks that cannot be used; the message lists all of them."""


def index_dataset(
    image_dirs: dict[str, Path], mask_dirs: dict[str, Path], target: Path, num_workers: int = 0
) -> int:
    """Write the index of all splits to `target`; returns the number of segments.

    image_dirs, mask_dirs: a directory for each split, `train` and `val`.
    Raises DatasetError that lists every broken image and mask at once; `target` is then left
    as it was.
    """
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for split in SPLITS:
        records, found = find_records(image_dirs[split], mask_dirs[split])
        problems += found
        for some_rows, some_problems in _read(records, num_workers):
            rows += [row | {"split": split} for row in some_rows]
            problems += some_problems
        log.info("%s: %d images in %s", split, len(records), image_dirs[split])
    if problems:
        raise DatasetError(_listing(problems))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), unfinished, compression="zstd")
    unfinished.replace(target)
    return len(rows)


def _listing(problems: list[str]) -> str:
    shown = problems[:_MOST_PROBLEMS]
    more = len(problems) - len(shown)
    lines = [f"{len(problems)} problems with images and masks:", *shown]
    return "\n  ".join(lines + ([f"... and {more} more"] if more else []))


def _read(
    records: list[Record], num_workers: int
) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    tasks = _batched(records, _IMAGES_PER_TASK)
    if num_workers == 0:
        yield from map(_read_records, tasks)
    else:
        with ProcessPoolExecutor(num_workers) as pool:
            yield from pool.map(_read_records, tasks)


def _batched(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    iterator = iter(records)
    while batch := list(islice(iterator, size)):
        yield batch


def _read_records(records: list[Record]) -> tuple[list[dict[str, Any]], list[str]]:
    rows: list[dict[str, Any]] = []
    problems = []
    for record in records:
        try:
            size = read_image(record.image_path).shape[:2]
        except RecordError as error:
            problems.append(str(error))
            continue
        digest = hashlib.sha256(record.image_path.read_bytes()).hexdigest()[:32]
        segments, found = read_segments(record, size)
        problems += found
        for segment in segments:
            x0, y0, x1, y1 = bounding_box(segment.mask)
            rows.append(
                {
                    "image_id": record.image_id,
                    "image_path": str(record.image_path),
                    "image_digest": digest,
                    "height": size[0],
                    "width": size[1],
                    "format": record.format,
                    "segment_id": segment.segment_id,
                    "mask_path": str(segment.mask_path),
                    "rle": encode(segment.mask),
                    **{"x0": x0, "y0": y0, "x1": x1, "y1": y1},
                    "area": int(np.count_nonzero(segment.mask)),
                }
            )
    return rows, problems


@dataclass(frozen=True)
class Segment:
    """One ground-truth object. box: xyxy in pixels of the image frame, x1 and y1 exclusive."""

    segment_id: str
    rle: bytes
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True)
class IndexedImage:
    """One image of the index with its segments. size: (H, W) in pixels."""

    image_id: str
    path: Path
    digest: str
    size: tuple[int, int]
    segments: tuple[Segment, ...]

    def mask(self, segment: Segment) -> Mask:
        """The mask (H, W) of one of the segments."""
        return decode(segment.rle, self.size)


class Index:
    """The images of one split, in the order of the index.

    Raises DatasetError when the file is missing, or has no image of the split.
    """

    def __init__(self, path: Path, split: str) -> None:
        if not path.is_file():
            raise DatasetError(f"{path}: there is no index; run `python -m mobile_sam index`")
        self._table = pq.read_table(path, filters=[("split", "==", split)])
        if len(self._table) == 0:
            raise DatasetError(f"{path}: the index has no image for {split!r}")
        digests = self._table["image_path"].to_numpy(zero_copy_only=False)
        starts = np.flatnonzero(np.r_[True, digests[1:] != digests[:-1]])
        self._bounds = np.r_[starts, len(digests)]

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, position: int) -> IndexedImage:
        start, end = self._bounds[position], self._bounds[position + 1]
        rows = self._table.slice(start, end - start).to_pylist()
        first = rows[0]
        return IndexedImage(
            image_id=first["image_id"],
            path=Path(first["image_path"]),
            digest=first["image_digest"],
            size=(first["height"], first["width"]),
            segments=tuple(
                Segment(
                    row["segment_id"],
                    row["rle"],
                    (row["x0"], row["y0"], row["x1"], row["y1"]),
                    row["area"],
                )
                for row in rows
            ),
        )

    def digests(self) -> list[str]:
        """The digest of each image's bytes, in order."""
        return [self._table["image_digest"][int(start)].as_py() for start in self._bounds[:-1]]
