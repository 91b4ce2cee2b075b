"""Reading of teacher features by image, in any process."""

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
    """Stored features of images, looked up by the digest of an image's bytes.

    remedy: advice at the end of the message about damaged features.
    Each process opens the Zarr group at its first read, because an open group must not cross a
    fork. Raises FeatureError if the store is missing, or has another identity.
    """

    def __init__(self, path: Path, expected: Identity, remedy: str = _REPAIR) -> None:
        self.path = path
        self.remedy = remedy
        self.expected = expected
        self._opened_by: int | None = None

    def read(self, record: IndexedImage, view: str = "identity") -> dict[str, Tensor]:
        """Read the features (C, S/16, S/16) of an image by level (`neck`, `block_8`), float16.

        view: `identity`, or `hflip` for the features of the image mirrored left-right.
        Raises FeatureError if the image has no features yet, if the view is not stored, or if a
        chunk fails its checksum.
        """
        self._open()
        if view not in self._arrays.views:
            raise FeatureError(
                f"{self.path}: the store has no features of view {view!r}; set feature_views to "
                f"{[*self._arrays.views, view]} and run `extract` again"
            )
        position = self._positions.get(bytes.fromhex(record.digest))
        if position is None:
            raise FeatureError(f"{self.path}: no features for {record.path}; run `extract` again")
        row = int(self._written[position])
        try:
            stored = self._arrays.read(row, self._arrays.views.index(view))
        except DamagedError as error:
            raise FeatureError(
                f"{self.path}: the features of {record.path} (row {row}) are damaged ({error}); "
                f"{self.remedy}"
            ) from error
        return {level: decode(parts, self._arrays.dtype) for level, parts in stored.items()}

    def _open(self) -> None:
        if self._opened_by == os.getpid():
            return
        self._lock = acquire_shared_lock(self.path)
        self._arrays = open_arrays(self.path, self.expected)
        self._written = np.flatnonzero(self._arrays.written())
        self._positions = DigestLookup(self._arrays.digests()[self._written])
        self._opened_by = os.getpid()
