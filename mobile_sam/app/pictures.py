"""Pictures that are asked about: files that somebody opens, and validation images of a run."""

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_sam.config import RunConfig
from mobile_sam.data.images import RecordError, read_image
from mobile_sam.data.index import DatasetError, Index, IndexedImage, read_unchanged
from mobile_sam.data.masks import Size
from mobile_sam.layout import RunPaths

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """An image. pixels: (H, W, 3), RGB. record: what an index knows of it, None of other images.

    key: of its pixels, equal for equal ones.
    """

    name: str
    pixels: NDArray[np.uint8] = field(repr=False)
    key: str
    record: IndexedImage | None = None

    @property
    def size(self) -> Size:
        """(H, W) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def opened(path: Path, name: str) -> Picture:
    """A file that somebody calls by another name. Raises RecordError when it is no image."""
    try:
        return _picture(Path(name).stem, read_image(path))
    except RecordError as error:
        raise RecordError(str(error).replace(str(path), name)) from error


def of_index(record: IndexedImage) -> Picture:
    """An image of an index. Raises RecordError when it is gone, or of another size now."""
    return _picture(record.image_id, read_unchanged(record), record)


def examples(config: RunConfig, count: int = 8) -> list[IndexedImage]:
    """Validation images of a run, spread over all of them; none where there are none any more."""
    path = RunPaths(config).index
    try:
        index = Index(path, "val")
    except DatasetError as error:
        log.info("without examples: %s", error)
        return []
    places = np.linspace(0, len(index) - 1, min(count, len(index))).astype(int)
    records = [index[place] for place in places.tolist()]
    gone = [record.path for record in records if not record.path.is_file()]
    if gone:
        log.info(
            "without %d examples: %s is not there; start where the run was made", len(gone), gone[0]
        )
    return [record for record in records if record.path not in gone]


def _picture(name: str, pixels: NDArray[np.uint8], record: IndexedImage | None = None) -> Picture:
    key = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    return Picture(name, pixels, key, record)
