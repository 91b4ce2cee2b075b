"""Making the index: images and annotations are read in parallel, and only what is new."""

import gc
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from mobile_sam.data.index import SCHEMA, UNLABELLED, DatasetError
from mobile_sam.data.kept import KeptRows, keep
from mobile_sam.data.records import Record
from mobile_sam.data.rows import ROW_OPTIONS, ROW_VERSION, Rows, read_rows
from mobile_sam.data.splits import Records, Sources, find_splits
from mobile_sam.data.written import Written
from mobile_sam.files import whole
from mobile_sam.options import Data

log = logging.getLogger(__name__)

# An image lies in one row group. A larger group takes longer to read; each takes 18 KiB of every
# process that reads the index. So there are 256 groups of up to 1024 images, and then up to 2048.
IMAGES_PER_GROUP = 64
_FEW_GROUPS, _MANY_IMAGES, _MOST_GROUPS = 256, 1024, 2048
_WORTH_A_POOL = 4 * IMAGES_PER_GROUP  # images
_MOST_PROBLEMS = 50
_REPEATED = ["split", "image_id", "image_path", "image_digest", "format", "class", "mask_path"]


def index_dataset(
    sources: Sources,
    target: Path,
    options: Data | None = None,
    seed: int = 0,
    num_workers: int = 0,
    kept: Path | None = None,
) -> int:
    """Write the index of all splits to `target`; returns the number of segments in use.

    sources: images and annotations of each split, `train` and `val`; without `val`, a share of the
    training images validates, drawn with `seed`. Images alone of `unlabelled`; those that train or
    validate are left out there.
    num_workers: processes that read; 0 and 1 read in this one.
    kept: a second name of the last index, which is read and replaced.
    Raises DatasetError that lists every broken image and annotation at once; `target` is then left
    as it was, and what could be read need not be read again.
    """
    options = options or Data()
    # A search for cyclic garbage would look at a million annotations again and again.
    gc.disable()
    try:
        records, problems = find_splits(sources, options, seed)
        gc.freeze()
        gc.enable()
        return _index(records, problems, target, options, num_workers, kept)
    finally:
        gc.enable()
        gc.unfreeze()


def _index(
    records: Records,
    problems: list[str],
    target: Path,
    options: Data,
    num_workers: int,
    kept: Path | None,
) -> int:
    with whole(target) as unfinished:
        written = _write(unfinished, records, options, num_workers, KeptRows(kept), problems)
        if kept is not None:
            keep(unfinished, kept, written.stamps, written.counts)
        missing = written.missing(options, list(records))
        if missing or len(problems) > options.max_broken:
            raise DatasetError(_listing(problems + missing, target))
    for problem in problems:
        log.warning("left out: %s", problem)
    return sum(of_split["segments"] for of_split in written.splits.values())


def _write(
    target: Path,
    records: Records,
    options: Data,
    num_workers: int,
    kept: KeptRows,
    problems: list[str],
) -> Written:
    written = Written()
    total = sum(map(len, records.values()))
    with ExitStack() as stack:
        writer = stack.enter_context(
            pq.ParquetWriter(
                target,
                SCHEMA,
                compression="zstd",
                use_dictionary=_REPEATED,
                write_statistics=["image"],
            )
        )
        bar = stack.enter_context(tqdm(total=total, unit="image", disable=None, mininterval=1))
        pool: Executor | None = None
        if num_workers > 1 and total > _WORTH_A_POOL:
            pool = stack.enter_context(ProcessPoolExecutor(num_workers, get_context("spawn")))
        for task in _ahead(_tasks(records, options, kept, pool), 3 * num_workers if pool else 0):
            rows = task.rows()
            problems += rows.problems
            table, counts = _merged(task.stamps, rows, kept)
            if task.split == UNLABELLED:
                table = written.without_copies(table)
            table, images = _numbered(table, counts, task.split, written.images(task.split))
            if task.split != UNLABELLED and UNLABELLED in records:
                written.remember(task.split, table)
            written.stamps += _stamps_to_keep(task.stamps, rows, kept)
            written.counts += counts
            if len(table):
                writer.write_table(table, row_group_size=len(table))
                written.add(task.split, table, images)
            bar.update(len(counts))
        content = {"splits": written.splits, "problems": problems[: options.max_broken]}
        writer.add_key_value_metadata({"mobile_sam": json.dumps(content)})
    return written


class _Task(NamedTuple):
    """Images of a row group. stamps: of all of them; rows: waits for those of the new ones."""

    split: str
    stamps: list[str]
    rows: Callable[[], Rows]


def images_per_group(images: int) -> int:
    """How many images a row group has in an index of so many."""
    few = min(-(-images // _FEW_GROUPS), _MANY_IMAGES)
    return max(IMAGES_PER_GROUP, few, -(-images // _MOST_GROUPS))


def _tasks(
    records: Records, options: Data, kept: KeptRows, pool: Executor | None
) -> Iterator[_Task]:
    choice = f"{ROW_VERSION} {options.model_dump_json(include=ROW_OPTIONS)}".encode()
    size = images_per_group(sum(map(len, records.values())))
    for split in records:
        for start in range(0, len(records[split]), size):
            group = records[split][start : start + size]
            stamps = [_stamp(record, choice) for record in group]
            new = [r for r, stamp in zip(group, stamps, strict=True) if stamp not in kept]
            if pool is None or not new:
                yield _Task(split, stamps, partial(read_rows, new, options))
            else:
                yield _Task(split, stamps, pool.submit(read_rows, new, options).result)


def _ahead(tasks: Iterable[_Task], count: int) -> Iterator[_Task]:
    """The same tasks, with so many of the next ones begun already."""
    begun: deque[_Task] = deque()
    for task in tasks:
        begun.append(task)
        if len(begun) > count:
            yield begun.popleft()
    yield from begun


def _stamp(record: Record, choice: bytes) -> str:
    digest = hashlib.blake2b(choice, digest_size=12)
    for part in record.stamp():
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()


def _stamps_to_keep(stamps: list[str], rows: Rows, kept: KeptRows) -> list[str]:
    """What had a problem is read again next time, so that the problem is named again."""
    sound = iter(rows.sound)
    return [stamp if stamp in kept or next(sound) else "" for stamp in stamps]


def _merged(stamps: list[str], rows: Rows, kept: KeptRows) -> tuple[pa.Table, list[int]]:
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


def _numbered(table: pa.Table, counts: list[int], split: str, first: int) -> tuple[pa.Table, int]:
    """The table with its split and the number of each image within it, and how many there are.

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
    return table.cast(SCHEMA), int(there.sum())


def _listing(problems: list[str], target: Path) -> str:
    shown = problems[:_MOST_PROBLEMS]
    lines = [f"{len(problems)} problems with images and annotations:", *shown]
    if len(problems) > len(shown):
        everything = target.with_name(f"{target.stem}.problems.txt")
        everything.write_text("\n".join(problems) + "\n", encoding="utf-8")
        lines.append(f"... and {len(problems) - len(shown)} more in {everything}")
    return "\n  ".join(lines)
