"""The last index, kept so that only images that changed since are read again."""

import logging
import os
import shutil
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from mobile_sam.data.index import DatasetError, open_index
from mobile_sam.files import file_digest, whole

log = logging.getLogger(__name__)


class KeptRows:
    """Rows of the last index by the stamp of their image; none where there is no last index.

    Stamps lie beside the index and not in it, so that equal images give an equal index, whatever
    the times of their files.
    """

    def __init__(self, path: Path | None) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        if path is None or not path.is_file() or not _stamps_path(path).is_file():
            return
        try:
            self._table = open_index(path).read(use_threads=False)
        except (DatasetError, OSError, pa.ArrowException) as error:
            log.info("reading all images: %s", error)
            return
        try:
            with np.load(_stamps_path(path), allow_pickle=False) as content:
                stamps, counts = content["stamps"].tolist(), content["counts"]
                belongs = content["index"].item() == file_digest(path)
        except (OSError, ValueError, LookupError, AttributeError, TypeError, BadZipFile) as error:
            log.info("reading all images: %s is damaged (%s)", _stamps_path(path), error)
            return
        if not belongs:
            log.info("reading all images: %s is of another index", _stamps_path(path))
            return
        ends = np.cumsum(counts)
        for stamp, start, count in zip(stamps, ends - counts, counts, strict=True):
            if stamp:
                self._places[stamp] = int(start), int(count)

    def __contains__(self, stamp: str) -> bool:
        return stamp in self._places

    def __getitem__(self, stamp: str) -> pa.Table:
        return self._table.slice(*self._places[stamp])


def keep(index: Path, kept: Path, stamps: list[str], counts: list[int]) -> None:
    """Make `kept` a second name of the file `index`, and write its stamps beside it.

    stamps: of each image in the order of the index, empty for one that must be read again;
    counts: rows of each image.
    """
    with whole(kept) as unfinished:
        try:
            os.link(index, unfinished)
        except OSError:  # a file system without links
            shutil.copyfile(index, unfinished)
    # An open file, because numpy would append a suffix to its name.
    with whole(_stamps_path(kept)) as unfinished, unfinished.open("wb") as file:
        np.savez(
            file,
            stamps=np.array(stamps, dtype=np.str_),
            counts=np.array(counts, dtype=np.int64),
            index=np.array(file_digest(kept)),
        )


def _stamps_path(kept: Path) -> Path:
    return kept.with_suffix(".npz")
