"""Images of the app: uploaded files, and validation images of a run."""

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import ImageOptions
from mobile_sam.data.images import DEFAULT_OPTIONS, RecordError, read_image
from mobile_sam.data.index.table import DatasetError, Index, IndexedImage, read_indexed_image
from mobile_sam.data.masks import Size
from mobile_sam.paths import RunPaths

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AppImage:
    """Image with its name.

    pixels: (H, W, 3), RGB. key: digest of the pixels. record: its entry in an index; None for
    uploaded images.
    """

    name: str
    pixels: NDArray[np.uint8] = field(repr=False)
    key: str
    record: IndexedImage | None = None

    @property
    def size(self) -> Size:
        """(H, W) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def uploaded_image(path: Path, name: str, options: ImageOptions = DEFAULT_OPTIONS) -> AppImage:
    """Read an uploaded file. name: the user's name of it.

    Raises RecordError, with that name, if it is not an image.
    """
    try:
        return _app_image(Path(name).stem, read_image(path, options))
    except RecordError as error:
        raise RecordError(str(error).replace(str(path), name)) from error


def indexed_image(record: IndexedImage) -> AppImage:
    """Read an image of an index. Raises RecordError if it is missing or has another size now."""
    return _app_image(record.image_id, read_indexed_image(record), record)


def example_images(config: RunConfig, count: int = 8) -> list[IndexedImage]:
    """Select validation images of a run, evenly spaced; empty if its index does not exist."""
    path = RunPaths(config).index
    try:
        index = Index(path, "val")
    except DatasetError as error:
        log.info("no examples: %s", error)
        return []
    numbers = np.linspace(0, len(index) - 1, min(count, len(index))).astype(int)
    records = [index[number] for number in numbers.tolist()]
    missing = [record.path for record in records if not record.path.is_file()]
    if missing:
        log.info(
            "%d examples left out: %s does not exist; start the app in the directory of the run's "
            "training",
            len(missing),
            missing[0],
        )
    return [record for record in records if record.path not in missing]


def _app_image(
    name: str, pixels: NDArray[np.uint8], record: IndexedImage | None = None
) -> AppImage:
    key = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    return AppImage(name, pixels, key, record)
