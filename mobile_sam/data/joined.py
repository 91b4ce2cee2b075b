"""Images of several splits of an index as one sequence."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mobile_sam.data.digests import Digests
from mobile_sam.data.index import (
    UNLABELLED,
    Index,
    IndexedImage,
    index_metadata,
    open_index,
)


class Joined:
    """The images of the parts, one part after the other."""

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
        """The digest of each image's bytes, in order."""
        return np.concatenate([part.digests() for part in self._parts])


def teacher_images(index: Path) -> Joined:
    """What teachers look at: the training images of an index, then its images without masks."""
    there = index_metadata(open_index(index))["splits"]
    return Joined([Index(index, split) for split in ("train", UNLABELLED) if split in there])
