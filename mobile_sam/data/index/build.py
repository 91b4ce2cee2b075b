"""Making the index: images and annotations are read in parallel, and only what is new."""

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
from itertools import compress
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
from mobile_sam.data.index.leakage import check_leakage
from mobile_sam.data.index.rows import ROW_OPTIONS, ROW_VERSION, Rows, read_rows
from mobile_sam.data.index.splits import Records, Sources, find_splits
from mobile_sam.data.index.table import (
    CROWDS,
    SCHEMA,
    UNLABELLED,
    DatasetError,
    notes_path,
    options_metadata,
)
from mobile_sam.data.record import Record
from mobile_sam.system.atomic_files import atomic_write, write_json
from mobile_sam.system.stopping import stopping_point

# Why an image without masks is left out, by the split that has the same image with masks.
_COPY_REASONS = {"train": "images that train with masks", "val": "images that validate"}


def _crowds_hint(reasons: Counter[str]) -> str:
    """Describe the remedy for annotations that contain only crowds."""
    if reasons[CROWDS] and sum(reasons.values()) == reasons[CROWDS]:
        return "; some tools set iscrowd on every brushed mask: set data.crowds to 'objects'"
    return ""


@dataclass
class IndexStatistics:
    """Rows written so far. stamps, counts, looks: as `save_index_cache` takes them.

    looks_in_use: perceptual hashes of the images in use of each split, in order.

    labelled: splits of the images that are remembered, by their digests.
    """

    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)
    formats: set[str] = field(default_factory=set)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    stamps: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    looks_in_use: dict[str, list[int]] = field(default_factory=dict)
    labelled: dict[str, str] = field(default_factory=dict)
    groups: int = 0

    def images(self, split: str) -> int:
        return self.splits.get(split, {"images": 0})["images"]

    def add(self, split: str, table: pa.Table, images: int) -> None:
        of_split = self.splits.setdefault(
            split, {"first_group": self.groups, "groups": 0, "images": 0, "segments": 0}
        )
        in_use = pc.is_valid(table["image"])
        of_split["groups"] += 1
        of_split["images"] += images
        of_split["segments"] += pc.sum(pc.and_(in_use, pc.is_valid(table["rle"]))).as_py()
        self.groups += 1
        self.classes |= set(pc.unique(table["class"]).to_pylist()) - {None}
        self.formats |= set(pc.unique(table["format"]).to_pylist())
        reasons = table["left_out"].drop_null().to_pylist()
        self.left_out.setdefault(split, Counter()).update(reasons)

    def remember(self, split: str, table: pa.Table) -> None:
        """Images in use of a split with masks, for `without_copies`."""
        in_use = pc.unique(table["image_digest"].filter(pc.is_valid(table["image"])))
        self.labelled |= dict.fromkeys(in_use.to_pylist(), split)

    def without_copies(self, table: pa.Table) -> pa.Table:
        """Images without masks, with those left out that are remembered, told by their bytes."""
        found = (self.labelled.get(digest, "") for digest in table["image_digest"].to_pylist())
        reasons = pa.array([_COPY_REASONS.get(split) for split in found], type=pa.string())
        return table.set_column(table.schema.get_field_index("left_out"), "left_out", reasons)

    def missing(self, options: Data, splits: list[str], others: bool = False) -> list[str]:
        """A sentence for each class that is asked for in vain, and each split without images.

        others: whether other problems say why a split of which nothing was read is empty.
        """
        there = ", ".join(sorted(self.classes)) or "no classes"
        problems = [
            f"data.classes: {name!r} is the class of no annotation; there are {there}"
            for name in options.classes or ()
            if name not in self.classes and "label_map" not in self.formats
        ]
        for split in splits:
            if self.images(split) == 0 and (self.left_out.get(split) or not others):
                reasons = self.left_out.get(split, Counter())
                why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
                what = "no image is left" if split == UNLABELLED else "no image has a segment"
                problems.append(
                    f"{split}: {what} to use (left out: {why or 'nothing'}){_crowds_hint(reasons)}"
                )
        return problems


log = logging.getLogger(__name__)

# An image lies in one row group. A larger group takes longer to read; each takes 18 KiB of every
# process that reads the index. So there are 256 groups of up to 1024 images, and then up to 2048.
IMAGES_PER_GROUP = 64
_MIN_GROUPS, _MAX_IMAGES_OF_MIN_GROUPS, _MAX_GROUPS = 256, 1024, 2048
_MIN_IMAGES_FOR_POOL = 4 * IMAGES_PER_GROUP  # images
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


def index_dataset(
    sources: Sources,
    target: Path,
    options: Data | None = None,
    num_workers: int = 0,
    kept: Path | None = None,
) -> int:
    """Write the index of all splits to `target`; returns the number of segments in use.

    sources: images and annotations of each split, `train` and `val`; without `val`, a share of the
    training images validates, drawn with `options.split_seed`. Images alone of `unlabelled`; those
    that train or validate are left out there.
    num_workers: processes that read; 0 and 1 read in this one.
    kept: a second name of the last index, which is read and replaced.
    Raises DatasetError that lists every broken image and annotation at once; `target` is then left
    as it was, and what could be read need not be read again.
    """
    options = options or Data()
    # A search for cyclic garbage would look at a million annotations again and again.
    gc.disable()
    try:
        records, problems, notes = find_splits(sources, options, options.split_seed)
        gc.freeze()
        gc.enable()
        return _build_index(records, problems, notes, target, options, num_workers, kept)
    finally:
        gc.enable()
        gc.unfreeze()


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
        past = IndexCache(kept)
        written = _write_index(unfinished, records, options, num_workers, past, problems, notes)
        if kept is not None:
            save_index_cache(unfinished, kept, written.stamps, written.counts, written.looks)
        missing = written.missing(options, list(records), bool(problems))
        if not missing:
            missing = check_leakage(unfinished, written.looks_in_use, options, notes)
        notes = list(dict.fromkeys(notes))
        if missing or len(problems) > options.max_broken:
            raise DatasetError(_problems_message(problems + missing, notes, target))
    stopping_point("the index is in place")
    # Beside the index and not in it, so that equal data give an equal index.
    write_json(notes_path(target), {"notes": notes})
    for problem in problems:
        log.warning("left out: %s", problem)
    for note in notes[:_MAX_SHOWN_NOTES]:
        log.info("%s", note)
    return sum(of_split["segments"] for of_split in written.splits.values())


def _write_index(
    target: Path,
    records: Records,
    options: Data,
    num_workers: int,
    kept: IndexCache,
    problems: list[str],
    notes: list[str],
) -> IndexStatistics:
    written = IndexStatistics()
    total = sum(map(len, records.values()))
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
            _tasks(records, options, kept, pool), 3 * num_workers if pool else 0
        ):
            rows = task.rows()
            problems += rows.problems
            notes += rows.notes
            table, counts = _merge_rows(task.stamps, rows, kept)
            if task.split == UNLABELLED:
                table = written.without_copies(table)
            looks = _all_hashes(task.stamps, rows, kept)
            table, used = _number_images(table, counts, task.split, written.images(task.split))
            if task.split != UNLABELLED and UNLABELLED in records:
                written.remember(task.split, table)
            written.stamps += _reusable_stamps(task.stamps, rows, kept)
            written.counts += counts
            written.looks += looks
            written.looks_in_use.setdefault(task.split, []).extend(compress(looks, used))
            if len(table):
                writer.write_table(table, row_group_size=len(table))
                written.add(task.split, table, int(used.sum()))
            bar.update(len(counts))
        content = {
            "splits": written.splits,
            "problems": problems[: options.max_broken],
            **options_metadata(options),
        }
        writer.add_key_value_metadata({"mobile_sam": json.dumps(content)})
    return written


class _Task(NamedTuple):
    """Images of a row group. stamps: of all of them; rows: waits for those of the new ones."""

    split: str
    stamps: list[str]
    rows: Callable[[], Rows]


def images_per_group(images: int) -> int:
    """Return the number of images in a row group of an index with so many images."""
    few = min(-(-images // _MIN_GROUPS), _MAX_IMAGES_OF_MIN_GROUPS)
    return max(IMAGES_PER_GROUP, few, -(-images // _MAX_GROUPS))


def _tasks(
    records: Records, options: Data, kept: IndexCache, pool: Executor | None
) -> Iterator[_Task]:
    choice = f"{ROW_VERSION} {options.model_dump_json(include=ROW_OPTIONS)}".encode()
    size = images_per_group(sum(map(len, records.values())))
    for split in records:
        for start in range(0, len(records[split]), size):
            group = records[split][start : start + size]
            stamps = [_record_stamp(record, choice) for record in group]
            new = [r for r, stamp in zip(group, stamps, strict=True) if stamp not in kept]
            if pool is None or not new:
                yield _Task(split, stamps, partial(read_rows, new, options))
            else:
                yield _Task(split, stamps, pool.submit(read_rows, new, options).result)


def _start_ahead(tasks: Iterable[_Task], count: int) -> Iterator[_Task]:
    """The same tasks, with so many of the next ones begun already."""
    begun: deque[_Task] = deque()
    for task in tasks:
        begun.append(task)
        if len(begun) > count:
            yield begun.popleft()
    yield from begun


def _record_stamp(record: Record, choice: bytes) -> str:
    digest = hashlib.blake2b(choice, digest_size=12)
    for part in record.stamp():
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()


def _reusable_stamps(stamps: list[str], rows: Rows, kept: IndexCache) -> list[str]:
    """Drop images with problems from the cache: they are read again, and reported again."""
    sound = iter(rows.sound)
    return [stamp if stamp in kept or next(sound) else "" for stamp in stamps]


def _all_hashes(stamps: list[str], rows: Rows, kept: IndexCache) -> list[int]:
    """Perceptual hashes of all images of a group, old and new."""
    new = iter(rows.looks)
    return [kept.looks[stamp] if stamp in kept else next(new) for stamp in stamps]


def _merge_rows(stamps: list[str], rows: Rows, kept: IndexCache) -> tuple[pa.Table, list[int]]:
    """Rows of all images of a group in order, old and new, and the number of each image's."""
    if len(rows.counts) == len(stamps):
        return rows.table, rows.counts
    pieces, used = [], 0
    counts = iter(rows.counts)
    for stamp in stamps:
        if stamp in kept:
            pieces.append(kept[stamp])
        else:
            pieces.append(rows.table.slice(used, next(counts)))
            used += len(pieces[-1])
    return pa.concat_tables(pieces).combine_chunks(), [len(piece) for piece in pieces]


def _number_images(
    table: pa.Table, counts: list[int], split: str, first: int
) -> tuple[pa.Table, NDArray[np.bool_]]:
    """The table with its split and the number of each image within it, and which are in use.

    Images without a segment in use get no number.
    """
    image = np.repeat(np.arange(len(counts)), counts)
    used = pc.is_null(table["left_out"]).to_numpy().astype(bool)
    there = np.zeros(len(counts), dtype=bool)
    there[image[used]] = True
    numbers = (first - 1 + np.cumsum(there))[image]
    columns = {
        "image": pa.array(numbers, mask=~used, type=pa.int32()),
        "split": pa.array([split] * len(table), type=pa.string()),
    }
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table.cast(SCHEMA), there


def _problems_message(problems: list[str], notes: list[str], target: Path) -> str:
    shown = problems[:_MAX_SHOWN_PROBLEMS]
    lines = [f"{len(problems)} problems with images and annotations:", *shown]
    if len(problems) > len(shown):
        everything = target.with_name(f"{target.stem}.problems.txt")
        everything.write_text("\n".join(problems) + "\n", encoding="utf-8")
        lines.append(f"... and {len(problems) - len(shown)} more in {everything}")
    lines += [f"note: {note}" for note in notes[:_MAX_SHOWN_NOTES]]
    return "\n  ".join(lines)
