"""Cache of the last index: only images that changed since then are read again."""

import logging
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from mobile_sam.data.index.table import DatasetError, open_index
from mobile_sam.system.atomic_files import atomic_write, file_digest, link
from mobile_sam.system.stopping import stopping_point

log = logging.getLogger(__name__)


class IndexCache:
    """Rows of the last index by the stamp of their image; empty without a last index.

    Stamps depend on the times of files. They are in a separate file, so that equal images give an
    equal index.
    """

    def __init__(self, path: Path | None) -> None:
        self._slices: dict[str, tuple[int, int]] = {}  # first row and number of rows
        if path is None or not path.is_file():
            return
        try:
            self._table = open_index(path).read(use_threads=False)
        except (DatasetError, OSError, pa.ArrowException) as error:
            log.info("reading all images: %s", error)
            return
        stamps_path = _stamps_path(path, file_digest(path))
        if not stamps_path.is_file():
            log.info("reading all images: no file times are recorded for %s", path)
            return
        try:
            with np.load(stamps_path, allow_pickle=False) as content:
                stamps, counts = content["stamps"].tolist(), content["counts"]
        except (OSError, ValueError, LookupError, AttributeError, TypeError, BadZipFile) as error:
            log.info("reading all images: %s is damaged (%s)", stamps_path, error)
            return
        ends = np.cumsum(counts)
        for stamp, start, count in zip(stamps, ends - counts, counts, strict=True):
            if stamp:
                self._slices[stamp] = int(start), int(count)

    def __contains__(self, stamp: str) -> bool:
        return stamp in self._slices

    def __getitem__(self, stamp: str) -> pa.Table:
        return self._table.slice(*self._slices[stamp])


def save_index_cache(index: Path, kept: Path, stamps: list[str], counts: list[int]) -> None:
    """Make `kept` a hard link to the file `index`, and write its stamps next to it.

    stamps: stamp of each image in the order of the index; empty if it must be read again.
    counts: rows of each image.
    """
    # The file of stamps is named by the digest of its index: until the new index is linked, the
    # stamps of the last one are used.
    stamps_path = _stamps_path(kept, file_digest(index))
    # An open file, because NumPy appends a suffix to a name.
    with atomic_write(stamps_path) as unfinished, unfinished.open("wb") as file:
        np.savez(
            file,
            stamps=np.array(stamps, dtype=np.str_),
            counts=np.array(counts, dtype=np.int64),
        )
    link(index, kept)
    stopping_point("the index is kept")
    for path in kept.parent.glob(f"{kept.stem}*.npz"):
        if path != stamps_path:
            path.unlink(missing_ok=True)


def _stamps_path(kept: Path, digest: str) -> Path:
    return kept.with_suffix(f".{digest[:16]}.npz")
