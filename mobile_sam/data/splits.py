"""Which images train, which validate, which have no masks, and which are left out by name."""

import hashlib
import logging
from pathlib import Path

from mobile_sam.data.index import SPLITS, UNLABELLED, DatasetError
from mobile_sam.data.records import Record, find_records, find_unlabelled
from mobile_sam.options import Data

log = logging.getLogger(__name__)

# Images and annotations of `train` and `val`, and images of `unlabelled`.
Sources = dict[str, tuple[Path, ...]]
Records = dict[str, list[Record]]


def find_splits(sources: Sources, options: Data, seed: int) -> tuple[Records, list[str]]:
    """Records of each split, and a sentence for each file that has no counterpart.

    sources: images and annotations of each split, `train` and `val`; without `val`, a share of the
    training images validates, drawn with `seed`; `val` may be alone. Images of `unlabelled`, where
    it is given, are all used: a subset chooses among images with masks. Raises DatasetError for a
    subset that cannot be read.
    """
    records: Records = {}
    problems: list[str] = []
    for split, places in sources.items():
        found = find_unlabelled(*places) if split == UNLABELLED else find_records(*places)
        problems += found.problems
        records[split] = found.records
        log.info("%s: %d images in %s", split, len(found.records), places[0])
    unlabelled = {UNLABELLED: records.pop(UNLABELLED)} if UNLABELLED in records else {}
    if options.subset is not None:
        records = _subset(records, Path(options.subset), problems)
    if "val" not in records:
        records = _divided(records["train"], options.val_fraction, seed)
    return {split: records[split] for split in SPLITS if split in records} | unlabelled, problems


def _subset(records: Records, path: Path, problems: list[str]) -> Records:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"data.subset: {path} cannot be read ({error}); write ids of images there, one a line"
        ) from error
    wanted = {line.strip() for line in lines if line.strip()}
    unknown = wanted - {record.image_id for some in records.values() for record in some}
    problems += [f"{path}: there is no image {name!r}; remove the line" for name in sorted(unknown)]
    return {split: [r for r in some if r.image_id in wanted] for split, some in records.items()}


def _divided(records: list[Record], val_fraction: float, seed: int) -> Records:
    """At least one image on each side; most images keep their side when others are added."""

    def lot(record: Record) -> bytes:
        return hashlib.sha256(f"{seed}/{record.image_id}".encode()).digest()

    count = min(max(round(len(records) * val_fraction), 1), max(len(records) - 1, 0))
    drawn = {record.image_id for record in sorted(records, key=lot)[:count]}
    return {
        "train": [record for record in records if record.image_id not in drawn],
        "val": [record for record in records if record.image_id in drawn],
    }
