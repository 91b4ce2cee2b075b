"""Splits of a data set: training, validation and unlabelled images, restricted to a subset."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mobile_sam.config.sections import Data, Fold
from mobile_sam.data.formats.text_files import read_lines
from mobile_sam.data.images import IMAGE_SUFFIXES, RecordError
from mobile_sam.data.index.groups import assign_groups
from mobile_sam.data.index.table import SPLITS, UNLABELLED, DatasetError
from mobile_sam.data.record import Record, normalise_name
from mobile_sam.data.records import find_records, find_unlabelled

log = logging.getLogger(__name__)

# Paths of images and annotations for `train` and `val`, and of images for `unlabelled`.
Sources = dict[str, tuple[Path, ...]]
Records = dict[str, list[Record]]


def find_splits(sources: Sources, options: Data, seed: int) -> tuple[Records, list[str], list[str]]:
    """Return the records of each split, the problems with files, and notes.

    sources: images and annotations of `train` and `val`. Without `val`, a fraction of the training
    images is drawn with `seed` for validation; `val` may also be the only split. All images of
    `unlabelled` are used: a subset selects only among images with masks.
    Raises DatasetError if the subset cannot be read.
    """
    records: Records = {}
    problems: list[str] = []
    notes: list[str] = []
    for split, paths in sources.items():
        if split == UNLABELLED:
            result = find_unlabelled(paths[0])
        else:
            result = find_records(paths[0], paths[1], options)
        problems += result.problems
        notes += result.notes
        records[split] = result.records
        log.info("%s: %d images in %s", split, len(result.records), paths[0])
    unlabelled = {UNLABELLED: records.pop(UNLABELLED)} if UNLABELLED in records else {}
    if options.subset is not None:
        records = _apply_subset(records, Path(options.subset), problems)
    image_ids = [record.image_id for of_split in records.values() for record in of_split]
    groups = assign_groups(image_ids, options.groups)
    if "val" not in records:
        sizes = Counter(groups[record.image_id] for record in records["train"])
        if options.fold is None:
            drawn = _groups_of_fraction(sizes, options.val_fraction, seed)
        else:
            drawn = _groups_of_fold(sizes, options.fold, seed)
        records = {
            "train": [each for each in records["train"] if groups[each.image_id] not in drawn],
            "val": [each for each in records["train"] if groups[each.image_id] in drawn],
        }
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
            f"data.subset: {error}; write one image id per line into a text file"
        ) from error
    known = {record.image_id for of_split in records.values() for record in of_split}
    subset = {_parse_image_id(line.strip(), known) for line in lines if line.strip()}
    if not subset:
        raise DatasetError(f"data.subset: {path}: the file is empty; write one image id per line")
    problems += [
        f"{path}: there is no image {name!r}; remove the line" for name in sorted(subset - known)
    ]
    return {
        split: [record for record in of_split if record.image_id in subset]
        for split, of_split in records.items()
    }


def _parse_image_id(line: str, known: set[str]) -> str:
    """Return the image id in a line, with either encoding of accents, with or without suffix."""
    name = normalise_name(line)
    path = PurePosixPath(name)
    if name not in known and path.suffix.lower() in IMAGE_SUFFIXES:
        return path.with_suffix("").as_posix()
    return name


def _groups_of_fraction(sizes: Counter[str], val_fraction: float, seed: int) -> set[str]:
    """Draw whole groups for validation until they have `val_fraction` of the images.

    sizes: number of images of each group. Each split gets at least one group. When images are
    added, most others stay in their split.
    """
    target, drawn, count = max(round(sizes.total() * val_fraction), 1), set(), 0
    for group in _shuffled(sizes, seed)[: max(len(sizes) - 1, 0)]:
        if count >= target:
            break
        drawn.add(group)
        count += sizes[group]
    return drawn


def _groups_of_fold(sizes: Counter[str], fold: Fold, seed: int) -> set[str]:
    """Return the groups of one part of the images; each group is in one of `fold.of` parts.

    The largest group goes first, each to the part that has the fewest images so far.
    Raises DatasetError for fewer groups than parts.
    """
    if len(sizes) < fold.of:
        raise DatasetError(
            f"data.fold: of: {fold.of}, but there are {len(sizes)} images or groups of images; "
            "lower the number of folds"
        )
    parts: list[set[str]] = [set() for _ in range(fold.of)]
    counts = [0] * fold.of
    for group in sorted(_shuffled(sizes, seed), key=lambda group: -sizes[group]):
        smallest = counts.index(min(counts))
        parts[smallest].add(group)
        counts[smallest] += sizes[group]
    return parts[fold.number]


def _shuffled(groups: Iterable[str], seed: int) -> list[str]:
    """Return groups in an order that depends on the seed and on each name alone."""
    return sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())


def _groups_in_both_splits(records: Records, groups: dict[str, str]) -> list[str]:
    """Return a sentence for each group that has training and validation images."""
    train, val = ({groups[record.image_id]: record for record in records[s]} for s in SPLITS)
    return [
        f"data.groups: {group!r} is in train ({train[group].image_id}) and in val "
        f"({val[group].image_id}); move all of its images to one split"
        for group in sorted(train.keys() & val.keys())
    ]
