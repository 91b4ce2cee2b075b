"""Images that show a smaller form of a model what it will see, and others that judge it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.data.images import read_image
from mobile_sam.data.index import DatasetError, Index, IndexedImage
from mobile_sam.data.masks import Mask
from mobile_sam.data.records import find_unlabelled
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.inference.grid import point_grid

_SEGMENTS = 4  # of an image, that judge
_GRID = 3  # points a side, where an image has no segments


@dataclass(frozen=True)
class Judge:
    """An image with prompts. record: its segments, whose boxes are the prompts; None: it has none,
    and is asked for what is at each point of a grid.
    """

    path: Path
    record: IndexedImage | None = None

    def prompts(self, image_size: tuple[int, int]) -> list[dict[str, Any]]:
        """What to ask of the image of (H, W) pixels: arguments of `OnnxPredictor.predict`."""
        if self.record is not None:
            return [{"box": segment.box} for segment in self.record.segments[:_SEGMENTS]]
        points = point_grid(_GRID) * np.array(image_size[::-1])
        return [{"point_coords": point[None], "point_labels": [1]} for point in points]

    def truths(self) -> list[Mask]:
        """The mask (H, W) that each prompt means; none without segments."""
        record = self.record
        return [record.mask(segment) for segment in record.segments[:_SEGMENTS]] if record else []


@dataclass(frozen=True)
class Examples:
    """calibration: images that fix the ranges of int8. judges: images that measure what is lost."""

    calibration: Sequence[Path]
    judges: Sequence[Judge]

    def frames(self, img_size: int) -> Iterator[NDArray[np.float32]]:
        """The calibration images in the model frame, (1, 3, S, S) each."""
        for path in self.calibration:
            yield image_to_model_frame(read_image(path), img_size)[None].numpy()


def of_index(path: Path, count: int) -> Examples:
    """At most `count` images of each split, evenly spaced: of `train` to calibrate, `val` to judge.

    Raises DatasetError where there is no index, or a split of it is empty.
    """
    train, val = (Index(path, split) for split in ("train", "val"))
    judging = [val[number] for number in spaced(len(val), count)]
    return Examples(
        [train[number].path for number in spaced(len(train), count)],
        [Judge(record.path, record) for record in judging],
    )


def of_directory(directory: Path, count: int) -> Examples:
    """At most `count` images below a directory to calibrate with, and others to judge by.

    A single image does both. Raises DatasetError where there is none.
    """
    found = find_unlabelled(directory)
    if found.problems:
        raise DatasetError("\n".join(found.problems))
    paths = [record.image_path for record in found.records]
    chosen = [paths[number] for number in spaced(len(paths), 2 * count)]
    return Examples(chosen[::2], [Judge(path) for path in chosen[1::2] or chosen])


def spaced(length: int, count: int) -> list[int]:
    """At most `count` numbers below `length`, evenly spaced, without repetition."""
    count = min(length, count)
    return [number * length // count for number in range(count)]
