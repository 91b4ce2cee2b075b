"""Writing of the index: reads images and annotations in parallel, and only those that changed."""

import gc
import hashlib
import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from mobile_sam.config.sections import Data
from mobile_sam.data.index.cache import IndexCache, save_index_cache
from mobile_sam.data.index.leakage import check_leakage, same_files
from mobile_sam.data.index.rows import ROW_OPTIONS, ROW_VERSION, Rows, read_rows
from mobile_sam.data.index.splits import Records, Sources, find_splits
from mobile_sam.data.index.table import (
    CROWDS,
    SCHEMA,
    SPLITS,
    UNLABELLED,
    DatasetError,
    decoded_beside,
    notes_path,
    options_metadata,
)
from mobile_sam.data.index.tile_rows import Tiling
from mobile_sam.data.record import Record
from mobile_sam.system.atomic_files import atomic_write, write_json
from mobile_sam.system.stopping import stopping_point

log = logging.getLogger(__name__)

# Each image lies in one row group. Reading a larger group takes longer, and each group takes
# 18 KiB in every process that reads the index. So the index has up to 256 groups of up to 1024
# images; beyond that, up to 2048 groups.
IMAGES_PER_GROUP = 64
_MIN_GROUPS, _MAX_IMAGES_OF_MIN_GROUPS, _MAX_GROUPS = 256, 1024, 2048
_MIN_IMAGES_FOR_POOL = 4 * IMAGES_PER_GROUP
_MAX_SHOWN_PROBLEMS = 50
_MAX_SHOWN_NOTES = 20
_DICTIONARY_COLUMNS = [
    "split",
    "image_id",
    "image_path",
    "image_digest",
    "format",
    "class",
    "mask_path",
]
# Reason to leave out an unlabelled image, by the split that has the same image with masks.
_COPY_REASONS = {"train": "images that train with masks", "val": "images that validate"}


@dataclass
class IndexStatistics:
    """Counts of the rows written so far, and the values that the next index reuses.

    splits: row groups and counts of each split, as in the index's metadata.
    left_out: number of rows by reason, for each split.
    stamps, counts: as `save_index_cache` takes them.
    labelled: split of each labelled image in use, by digest; filled if there are unlabelled images.
    groups: number of row groups.
    """

    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)
    formats: set[str] = field(default_factory=set)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    stamps: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    labelled: dict[str, str] = field(default_factory=dict)
    groups: int = 0

    def images(self, split: str) -> int:
        """Return the number of images in use of a split."""
        return self.splits.get(split, {"images": 0})["images"]

    def add(self, split: str, table: pa.Table) -> None:
        """Count a row group of a split."""
        split_counts = self.splits.setdefault(
            split, {"first_group": self.groups, "groups": 0, "images": 0, "segments": 0}
        )
        in_use = pc.is_valid(table["image"])
        split_counts["groups"] += 1
        split_counts["images"] += len(pc.unique(table["image"].drop_null()))
        split_counts["segments"] += pc.sum(pc.and_(in_use, pc.is_valid(table["rle"]))).as_py()
        self.groups += 1
        self.classes |= set(pc.unique(table["class"]).to_pylist()) - {None}
        self.formats |= set(pc.unique(table["format"]).to_pylist())
        reasons = table["left_out"].drop_null().to_pylist()
        self.left_out.setdefault(split, Counter()).update(reasons)

    def remember(self, split: str, table: pa.Table) -> None:
        """Record the images in use of a split with masks, for `without_copies`."""
        in_use = pc.unique(table["image_digest"].filter(pc.is_valid(table["image"])))
        self.labelled |= dict.fromkeys(in_use.to_pylist(), split)

    def without_copies(self, table: pa.Table) -> pa.Table:
        """Mark the rows of unlabelled images whose bytes equal those of a labelled image."""
        splits = (self.labelled.get(digest, "") for digest in table["image_digest"].to_pylist())
        reasons = pa.array([_COPY_REASONS.get(split) for split in splits], type=pa.string())
        return table.set_column(table.schema.get_field_index("left_out"), "left_out", reasons)

    def missing(self, options: Data, splits: list[str], explained: bool = False) -> list[str]:
        """Return a sentence for each class that does not occur, and each split without images.

        explained: whether other problems explain a split from which nothing was read.
        """
        classes = ", ".join(sorted(self.classes)) or "none"
        problems = [
            f"data.classes: no annotation has the class {name!r}; the classes are: {classes}"
            for name in options.classes or ()
            if name not in self.classes and "label_map" not in self.formats
        ]
        for split in splits:
            if self.images(split) == 0 and (self.left_out.get(split) or not explained):
                reasons = self.left_out.get(split, Counter())
                counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
                lack = "no image is left" if split == UNLABELLED else "no image has a segment"
                problems.append(
                    f"{split}: {lack} to use (left out: {counts or 'nothing'})"
                    f"{_crowds_hint(reasons)}"
                )
        return problems


def _crowds_hint(reasons: Counter[str]) -> str:
    """Describe the remedy for annotations that contain only crowds."""
    if reasons[CROWDS] and sum(reasons.values()) == reasons[CROWDS]:
        return "; some tools set iscrowd on every brushed mask: set data.crowds to 'objects'"
    return ""


def index_dataset(
    sources: Sources,
    target: Path,
    options: Data | None = None,
    num_workers: int = 0,
    kept: Path | None = None,
) -> int:
    """Write the index of all splits to `target`; return the number of segments in use.

    sources: directories of the images and annotations of each split, `train` and `val`. Without
    `val`, a fraction of the training images is drawn with `options.split_seed` for validation.
    `unlabelled` has images only; copies of training and validation images are left out of it.
    num_workers: reading processes; with 0 or 1, this process reads.
    kept: path of a copy of the last index, as a hard link. Images that did not change are taken
    from it; then it is replaced.
    Raises DatasetError, which lists all broken images and annotations at once. `target` is then
    unchanged, and images without a problem are not read again the next time.
    """
    options = options or Data()
    # The garbage collector would scan a million annotations again and again.
    gc.disable()
    try:
        records, problems, notes = find_splits(sources, options, options.split_seed)
        gc.freeze()
        gc.enable()
        if options.tile is not None and UNLABELLED in records:
            _leave_out_copies(records, notes)
        return _build_index(records, problems, notes, target, options, num_workers, kept)
    finally:
        gc.enable()
        gc.unfreeze()


def _leave_out_copies(records: Records, notes: list[str]) -> None:
    """Leave out unlabelled images that are copies of labelled ones, before they are cut."""
    labelled = [record.image_path for split in SPLITS for record in records.get(split, [])]
    unlabelled = records[UNLABELLED]
    copies = same_files(labelled, (record.image_path for record in unlabelled))
    records[UNLABELLED] = [record for record in unlabelled if record.image_path not in copies]
    notes += [f"{path}: left out, a copy of {original}" for path, original in copies.items()]


def _build_index(
    records: Records,
    problems: list[str],
    notes: list[str],
    target: Path,
    options: Data,
    num_workers: int,
    kept: Path | None,
) -> int:
    with atomic_write(target) as unfinished:
        cache = IndexCache(kept)
        statistics = _write_index(unfinished, records, options, num_workers, cache, problems, notes)
        if kept is not None:
            save_index_cache(unfinished, kept, statistics.stamps, statistics.counts)
        missing = statistics.missing(options, list(records), bool(problems))
        if not missing:
            missing = check_leakage(unfinished, options)
        notes = list(dict.fromkeys(notes))
        if missing or len(problems) > options.max_broken:
            raise DatasetError(_problems_message(problems + missing, notes, target))
    stopping_point("the index is in place")
    # In a file of their own, so that equal data give an equal index.
    write_json(notes_path(target), {"notes": notes})
    for problem in problems:
        log.warning("left out: %s", problem)
    for note in notes[:_MAX_SHOWN_NOTES]:
        log.info("%s", note)
    return sum(split_counts["segments"] for split_counts in statistics.splits.values())


def _write_index(
    target: Path,
    records: Records,
    options: Data,
    num_workers: int,
    cache: IndexCache,
    problems: list[str],
    notes: list[str],
) -> IndexStatistics:
    """Write the rows of all images to `target`; append problems and notes to the two lists."""
    statistics = IndexStatistics()
    total = sum(map(len, records.values()))
    groups_of = images_per_group(total)
    with ExitStack() as stack:
        writer = stack.enter_context(
            pq.ParquetWriter(
                target,
                SCHEMA,
                compression="zstd",
                use_dictionary=_DICTIONARY_COLUMNS,
                write_statistics=["image"],
            )
        )
        bar = stack.enter_context(tqdm(total=total, unit="image", disable=None, mininterval=1))
        pool: Executor | None = None
        if num_workers > 1 and total > _MIN_IMAGES_FOR_POOL:
            pool = stack.enter_context(ProcessPoolExecutor(num_workers, get_context("spawn")))
        for task in _start_ahead(
            _tasks(records, options, cache, pool, target), 3 * num_workers if pool else 0
        ):
            rows = task.rows()
            problems += rows.problems
            notes += rows.notes
            table, counts = _merge_rows(task.stamps, rows, cache)
            if task.split == UNLABELLED:
                table = statistics.without_copies(table)
            image = _ordinals(table)
            table = _number_images(table, image, task.split, statistics.images(task.split))
            if task.split != UNLABELLED and UNLABELLED in records:
                statistics.remember(task.split, table)
            statistics.stamps += _reusable_stamps(task.stamps, rows, cache)
            statistics.counts += counts
            for group in _row_groups(table, image, groups_of):
                writer.write_table(group, row_group_size=len(group))
                statistics.add(task.split, group)
            bar.update(len(counts))
        metadata = {
            "splits": statistics.splits,
            "problems": problems[: options.max_broken],
            **options_metadata(options),
            **({} if options.tile is None else {"tile": options.tile.model_dump()}),
        }
        writer.add_key_value_metadata({"mobile_sam": json.dumps(metadata)})
    return statistics


class _Task(NamedTuple):
    """Images of a row group.

    stamps: stamp of each image. rows: waits for the rows of images that are not in the cache.
    """

    split: str
    stamps: list[str]
    rows: Callable[[], Rows]


def images_per_group(images: int) -> int:
    """Return the number of images in a row group of an index of `images` images."""
    few_groups = min(-(-images // _MIN_GROUPS), _MAX_IMAGES_OF_MIN_GROUPS)
    return max(IMAGES_PER_GROUP, few_groups, -(-images // _MAX_GROUPS))


def _tiling(options: Data, split: str, target: Path) -> Tiling | None:
    if options.tile is None:
        return None
    cache = decoded_beside(target, options.tile)
    return Tiling(options.tile, cache, once=split == "val", empty=split == UNLABELLED)


def _tasks(
    records: Records, options: Data, cache: IndexCache, pool: Executor | None, target: Path
) -> Iterator[_Task]:
    """Yield a task for each row group; with a pool, its rows are being read already."""
    settings = f"{ROW_VERSION} {options.model_dump_json(include=ROW_OPTIONS)}"
    size = images_per_group(sum(map(len, records.values())))
    for split in records:
        tiling = _tiling(options, split, target)
        cut = "" if tiling is None else f" {tiling.tile} {tiling.once} {tiling.empty}"
        stamped = f"{settings}{cut}".encode()
        for start in range(0, len(records[split]), size):
            group = records[split][start : start + size]
            stamps = [_record_stamp(record, stamped) for record in group]
            new = [r for r, stamp in zip(group, stamps, strict=True) if stamp not in cache]
            if pool is None or not new:
                yield _Task(split, stamps, partial(read_rows, new, options, tiling))
            else:
                yield _Task(split, stamps, pool.submit(read_rows, new, options, tiling).result)


def _start_ahead(tasks: Iterable[_Task], count: int) -> Iterator[_Task]:
    """Yield the tasks in order; `count` further tasks are started before one is yielded."""
    started: deque[_Task] = deque()
    for task in tasks:
        started.append(task)
        if len(started) > count:
            yield started.popleft()
    yield from started


def _record_stamp(record: Record, settings: bytes) -> str:
    """Return a digest of the names, sizes and times of a record's files, and of the settings."""
    digest = hashlib.blake2b(settings, digest_size=12)
    for part in record.stamp():
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()


def _reusable_stamps(stamps: list[str], rows: Rows, cache: IndexCache) -> list[str]:
    """Blank the stamps of images with problems: they are read and reported again next time."""
    sound = iter(rows.sound)
    return [stamp if stamp in cache or next(sound) else "" for stamp in stamps]


def _merge_rows(stamps: list[str], rows: Rows, cache: IndexCache) -> tuple[pa.Table, list[int]]:
    """Return the rows of all images of a group, cached and new, in order, and each image's count.

    rows: rows of the new images.
    """
    if len(rows.counts) == len(stamps):
        return rows.table, rows.counts
    pieces, start = [], 0
    counts = iter(rows.counts)
    for stamp in stamps:
        if stamp in cache:
            pieces.append(cache[stamp])
        else:
            pieces.append(rows.table.slice(start, next(counts)))
            start += len(pieces[-1])
    return pa.concat_tables(pieces).combine_chunks(), [len(piece) for piece in pieces]


def _number_images(table: pa.Table, image: NDArray[np.int64], split: str, first: int) -> pa.Table:
    """Set the split and the image numbers of a group's rows.

    image: as `_ordinals` returns it. first: number of the first image in use. An image, or a tile,
    is in use if one of its rows is not left out; only these rows get its number.
    """
    row_in_use = pc.is_null(table["left_out"]).to_numpy().astype(bool)
    image_in_use = np.zeros(len(table), dtype=bool)
    image_in_use[image[row_in_use]] = True
    numbers = (first - 1 + np.cumsum(image_in_use))[image]
    columns = {
        "image": pa.array(numbers, mask=~row_in_use, type=pa.int32()),
        "split": pa.array([split] * len(table), type=pa.string()),
    }
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table.cast(SCHEMA)


def _ordinals(table: pa.Table) -> NDArray[np.int64]:
    """Return the number of each row's image or tile among those of the table."""
    ids = table["image_id"]
    changes = pc.not_equal(ids.slice(1), ids.slice(0, max(len(ids) - 1, 0))).to_numpy()
    return np.concatenate(
        [np.zeros(min(len(ids), 1), np.int64), np.cumsum(changes.astype(np.int64))]
    )


def _row_groups(table: pa.Table, image: NDArray[np.int64], most: int) -> Iterator[pa.Table]:
    """Yield the rows of at most so many images or tiles each. image: as in `_number_images`."""
    group = image // most
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    for start, end in pairwise([*starts.tolist(), len(table)]):
        yield table.slice(start, end - start)


def _problems_message(problems: list[str], notes: list[str], target: Path) -> str:
    """Return the message for problems; all are written to a file if not all of them are shown."""
    shown = problems[:_MAX_SHOWN_PROBLEMS]
    lines = [f"{len(problems)} problems with images and annotations:", *shown]
    if len(problems) > len(shown):
        full_list = target.with_name(f"{target.stem}.problems.txt")
        full_list.write_text("\n".join(problems) + "\n", encoding="utf-8")
        lines.append(f"... and {len(problems) - len(shown)} more in {full_list}")
    lines += [f"note: {note}" for note in notes[:_MAX_SHOWN_NOTES]]
    return "\n  ".join(lines)
