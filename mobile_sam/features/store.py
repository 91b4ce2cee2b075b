"""Reading teacher features: by image, in any process."""

import os
from pathlib import Path

import numpy as np
from torch import Tensor

from mobile_sam.data.index.digest_lookup import DigestLookup
from mobile_sam.data.index.table import IndexedImage
from mobile_sam.features.arrays import open_arrays
from mobile_sam.features.encoding import decode
from mobile_sam.features.identity import Identity
from mobile_sam.features.locks import acquire_shared_lock
from mobile_sam.features.schema import DamagedError, FeatureError

_REPAIR = "run `python -m mobile_sam features --repair`"


class FeatureStore:
    """Features of images, by the digest of an image's bytes.

    remedy: what to do about damage, for its message.
    The Zarr group is opened at the first read in each process, because it must not be carried
    over a fork. Raises FeatureError for a store that is missing or of something else.
    """

    def __init__(self, path: Path, expected: Identity, remedy: str = _REPAIR) -> None:
        self.path = path
        self.remedy = remedy
        self.expected = expected
        self._opened_by: int | None = None

    def read(self, record: IndexedImage, view: str = "identity") -> dict[str, Tensor]:
        """Features (C, S/16, S/16) of an image by level (`neck`, `block_8`), float16.

        view: `identity`, or `hflip` for the features of the image mirrored left-right.
        Raises FeatureError when the image has none yet, when views of that kind are not stored,
        or when a chunk fails its checksum.
        """
        self._open()
        if view not in self._arrays.views:
            raise FeatureError(
                f"{self.path}: has no features of the view {view!r}; set feature_views to "
                f"{[*self._arrays.views, view]} and run `extract` again"
            )
        place = self._places.get(bytes.fromhex(record.digest))
        if place is None:
            raise FeatureError(f"{self.path}: no features for {record.path}; run `extract` again")
        row = int(self._written[place])
        try:
            found = self._arrays.read(row, self._arrays.views.index(view))
        except DamagedError as error:
            raise FeatureError(
                f"{self.path}: the features of {record.path} (row {row}) are damaged ({error}); "
                f"{self.remedy}"
            ) from error
        return {level: decode(parts, self._arrays.dtype) for level, parts in found.items()}

    def _open(self) -> None:
        if self._opened_by == os.getpid():
            return
        self._in_use = acquire_shared_lock(self.path)
        self._arrays = open_arrays(self.path, self.expected)
        self._written = np.flatnonzero(self._arrays.written())
        self._places = DigestLookup(self._arrays.digests()[self._written])
        self._opened_by = os.getpid()
