"""Images for the calibration of int8, and for the evaluation of exported models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.config.sections import ImageOptions
from mobile_sam.data.images import DEFAULT_OPTIONS, read_image
from mobile_sam.data.index.table import DatasetError, Index, IndexedImage, read_indexed_image
from mobile_sam.data.masks import Mask
from mobile_sam.data.records import find_unlabelled
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.inference.grid import point_grid

_MAX_SEGMENTS = 4  # prompts per image
_GRID_SIDE = 3  # points a side, for an image without segments


@dataclass(frozen=True)
class EvaluationImage:
    """Image with prompts.

    record: segments whose boxes are the prompts; None: the prompts are the points of a grid.
    """

    path: Path
    record: IndexedImage | None = None
    options: ImageOptions = DEFAULT_OPTIONS

    def pixels(self) -> NDArray[np.uint8]:
        """Read the RGB pixels (H, W, 3) of the image, or of the tile."""
        if self.record is not None:
            return read_indexed_image(self.record)
        return read_image(self.path, self.options)

    def prompts(self, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """Return prompts for an image of (H, W) pixels, as arguments of `OnnxPredictor.predict`."""
        if self.record is not None:
            return [{"box": segment.box} for segment in self.record.segments[:_MAX_SEGMENTS]]
        points = point_grid(_GRID_SIDE) * np.array(image_size[::-1])
        return [{"point_coords": point[None], "point_labels": [1]} for point in points]

    def truths(self) -> list[Mask]:
        """Return the true mask (H, W) of each prompt; empty without segments."""
        record = self.record
        if record is None:
            return []
        return [record.mask(segment) for segment in record.segments[:_MAX_SEGMENTS]]


@dataclass(frozen=True)
class ExportImages:
    """Images for an export: some calibrate int8, others evaluate all forms."""

    calibration: Sequence[EvaluationImage]
    evaluation: Sequence[EvaluationImage]

    def frames(self, img_size: int) -> Iterator[NDArray[np.float32]]:
        """Yield the calibration images in the model frame, (1, 3, S, S) each."""
        for image in self.calibration:
            yield image_to_model_frame(image.pixels(), img_size)[None].numpy()


def images_from_index(path: Path, count: int) -> ExportImages:
    """Select up to `count` images of `train` for calibration and of `val` for evaluation.

    Raises DatasetError if there is no index, or a split of it is empty.
    """
    return ExportImages(*(from_index(path, split, count) for split in ("train", "val")))


def from_index(path: Path, split: str, count: int) -> list[EvaluationImage]:
    """Select up to `count` images of a split. Raises the errors of `Index`."""
    index = Index(path, split)
    records = [index[number] for number in evenly_spaced(len(index), count)]
    return [EvaluationImage(record.path, record, record.options) for record in records]


def images_from_directory(
    directory: Path, count: int, options: ImageOptions = DEFAULT_OPTIONS
) -> ExportImages:
    """Select up to `count` images below a directory for calibration, and others for evaluation.

    A single image serves for both. Raises DatasetError if there is no image.
    """
    listing = find_unlabelled(directory)
    if listing.problems:
        raise DatasetError("\n".join(listing.problems))
    paths = [record.image_path for record in listing.records]
    chosen = [paths[number] for number in evenly_spaced(len(paths), 2 * count)]
    selected = [EvaluationImage(path, options=options) for path in chosen]
    return ExportImages(selected[::2], selected[1::2] or selected)


def evenly_spaced(length: int, count: int) -> list[int]:
    """Return up to `count` different numbers below `length`, evenly spaced."""
    count = min(length, count)
    return [number * length // count for number in range(count)]
