"""What has been written of an index so far: counts, classes, and what is missing at its end."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mobile_sam.data.index import UNLABELLED
from mobile_sam.options import Data

# Why an image without masks is left out, by the split that has the same image with masks.
_COPIES = {"train": "images that train with masks", "val": "images that validate"}


@dataclass
class Written:
    """What has been written so far. stamps, counts: as `keep` takes them.

    labelled: splits of the images that are remembered, by their digests.
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
        reasons = pa.array([_COPIES.get(split) for split in found], type=pa.string())
        return table.set_column(table.schema.get_field_index("left_out"), "left_out", reasons)

    def missing(self, options: Data, splits: list[str]) -> list[str]:
        """A sentence for each class that is asked for in vain, and each split without images."""
        there = ", ".join(sorted(self.classes)) or "no classes"
        problems = [
            f"data.classes: {name!r} is the class of no annotation; there are {there}"
            for name in options.classes or ()
            if name not in self.classes and "label_map" not in self.formats
        ]
        for split in splits:
            if self.images(split) == 0:
                reasons = self.left_out.get(split, Counter())
                why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
                what = "no image is left" if split == UNLABELLED else "no image has a segment"
                problems.append(f"{split}: {what} to use (left out: {why or 'nothing'})")
        return problems
