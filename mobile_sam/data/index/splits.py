"""Which images train, which validate, which have no masks, and which are left out by name."""

import hashlib
import logging
from collections import Counter
from pathlib import Path, PurePosixPath

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.text_files import read_lines
from mobile_sam.data.images import IMAGE_SUFFIXES, RecordError
from mobile_sam.data.index.groups import assign_groups
from mobile_sam.data.index.table import SPLITS, UNLABELLED, DatasetError
from mobile_sam.data.record import Record, normalise_name
from mobile_sam.data.records import find_records, find_unlabelled

log = logging.getLogger(__name__)

# Images and annotations of `train` and `val`, and images of `unlabelled`.
Sources = dict[str, tuple[Path, ...]]
Records = dict[str, list[Record]]


def find_splits(sources: Sources, options: Data, seed: int) -> tuple[Records, list[str], list[str]]:
    """Records of each split, a sentence for each file that has no counterpart, and notes.

    sources: images and annotations of each split, `train` and `val`; without `val`, a share of the
    training images validates, drawn with `seed`; `val` may be alone. Images of `unlabelled`, where
    it is given, are all used: a subset chooses among images with masks. Raises DatasetError for a
    subset that cannot be read.
    """
    records: Records = {}
    problems: list[str] = []
    notes: list[str] = []
    for split, places in sources.items():
        if split == UNLABELLED:
            found = find_unlabelled(places[0])
        else:
            found = find_records(places[0], places[1], options)
        problems += found.problems
        notes += found.notes
        records[split] = found.records
        log.info("%s: %d images in %s", split, len(found.records), places[0])
    unlabelled = {UNLABELLED: records.pop(UNLABELLED)} if UNLABELLED in records else {}
    if options.subset is not None:
        records = _apply_subset(records, Path(options.subset), problems)
    ids = [record.image_id for some in records.values() for record in some]
    groups = assign_groups(ids, options.groups)
    if "val" not in records:
        records = _split_by_fraction(records["train"], options.val_fraction, seed, groups)
    elif options.groups is not None:
        problems += _groups_in_both_splits(records, groups)
    return (
        {split: records[split] for split in SPLITS if split in records} | unlabelled,
        problems,
        notes,
    )


def _apply_subset(records: Records, path: Path, problems: list[str]) -> Records:
    try:
        lines = read_lines(path)
    except RecordError as error:
        raise DatasetError(
            f"data.subset: {error}; write ids of images there, one a line"
        ) from error
    ids = {record.image_id for some in records.values() for record in some}
    asked = {_parse_image_id(line.strip(), ids) for line in lines if line.strip()}
    if not asked:
        raise DatasetError(f"data.subset: {path}: the file is empty; write ids of images there")
    problems += [
        f"{path}: there is no image {name!r}; remove the line" for name in sorted(asked - ids)
    ]
    return {split: [r for r in some if r.image_id in asked] for split, some in records.items()}


def _parse_image_id(line: str, ids: set[str]) -> str:
    """The id that a line means: in either spelling of accents, with or without a suffix."""
    name = normalise_name(line)
    path = PurePosixPath(name)
    if name not in ids and path.suffix.lower() in IMAGE_SUFFIXES:
        return path.with_suffix("").as_posix()
    return name


def _split_by_fraction(
    records: list[Record], val_fraction: float, seed: int, groups: dict[str, str]
) -> Records:
    """At least one group on each side; most images keep their side when others are added."""

    def lot(group: str) -> bytes:
        return hashlib.sha256(f"{seed}/{group}".encode()).digest()

    sizes = Counter(groups[record.image_id] for record in records)
    wanted, drawn, count = max(round(len(records) * val_fraction), 1), set(), 0
    for group in sorted(sizes, key=lot)[: max(len(sizes) - 1, 0)]:
        if count >= wanted:
            break
        drawn.add(group)
        count += sizes[group]
    return {
        "train": [record for record in records if groups[record.image_id] not in drawn],
        "val": [record for record in records if groups[record.image_id] in drawn],
    }


def _groups_in_both_splits(records: Records, groups: dict[str, str]) -> list[str]:
    """Return a sentence for each group that trains and validates."""
    train, val = ({groups[record.image_id]: record for record in records[s]} for s in SPLITS)
    return [
        f"data.groups: {group!r} trains ({train[group].image_id}) and validates "
        f"({val[group].image_id}); move all of it to one side"
        for group in sorted(train.keys() & val.keys())
    ]
