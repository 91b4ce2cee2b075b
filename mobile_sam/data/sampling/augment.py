"""Augmentation of training images: geometry of image and masks, and colours of the image."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mobile_sam.config.sections import Augment

Pixels = NDArray[np.uint8]  # RGB (H, W, 3)


@dataclass(frozen=True)
class Geometry:
    """Geometric augmentation: the visible crop of an image, its scale and its flip.

    rows, columns: (first, end) of the crop, in pixels of the image.
    longest: longest side of the crop in the model frame, in pixels; the rest is padding.
    mirrored: whether the crop is flipped left-right.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    longest: int
    mirrored: bool = False

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Crop and flip an image (H, W, 3) or a mask (H, W); it is not resized."""
        crop = array[slice(*self.rows), slice(*self.columns)]
        return np.ascontiguousarray(crop[:, ::-1]) if self.mirrored else crop

    def touches(self, box: tuple[int, int, int, int]) -> bool:
        """Return whether a box, xyxy in pixels of the image, overlaps the crop."""
        x0, y0, x1, y1 = box
        (top, bottom), (left, right) = self.rows, self.columns
        return x0 < right and x1 > left and y0 < bottom and y1 > top

    @property
    def size(self) -> tuple[int, int]:
        """Size (H, W) of the crop in pixels of the image."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    @property
    def view(self) -> str:
        """Name of the view of the stored teacher features with the same flip."""
        return "hflip" if self.mirrored else "identity"


def full_view(size: tuple[int, int], img_size: int, mirrored: bool = False) -> Geometry:
    """Return the geometry of a whole image of `size` (H, W) that fills the model frame."""
    return Geometry((0, size[0]), (0, size[1]), img_size, mirrored)


def random_rescale(geometry: Geometry, scale: float, rng: np.random.Generator) -> Geometry:
    """Rescale the geometry of an image or a crop by a random factor from 1 - scale to 1 + scale.

    A larger image is cropped at random to the model frame; a smaller one is padded.
    """
    factor = 1 + scale * rng.uniform(-1, 1)
    if factor <= 1:
        return replace(geometry, longest=max(round(geometry.longest * factor), 1))
    rows, columns = (_random_crop(side, factor, rng) for side in (geometry.rows, geometry.columns))
    return replace(geometry, rows=rows, columns=columns)


def crop_around(
    geometry: Geometry, box: tuple[int, int, int, int], rng: np.random.Generator
) -> Geometry:
    """Crop a whole image to a random part at its own resolution, which fills the model frame.

    box: xyxy in pixels of the image; its centre is in the crop. A side of the image that is no
    longer than the frame is not cropped.
    """
    side = geometry.longest
    columns, rows = (
        _crop_with(length, side, (box[axis] + box[axis + 2]) // 2, rng)
        for axis, length in ((0, geometry.columns[1]), (1, geometry.rows[1]))
    )
    longest = max(rows[1] - rows[0], columns[1] - columns[0])
    return replace(geometry, rows=rows, columns=columns, longest=min(longest, side))


def random_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return the box, xyxy, of a random pixel of an image (H, W)."""
    y, x = (int(rng.integers(side)) for side in size)
    return x, y, x + 1, y + 1


def _crop_with(length: int, side: int, position: int, rng: np.random.Generator) -> tuple[int, int]:
    if length <= side:
        return 0, length
    least, most = max(0, position - side + 1), min(length - side, position)
    first = int(rng.integers(least, most, endpoint=True))
    return first, first + side


def _random_crop(side: tuple[int, int], factor: float, rng: np.random.Generator) -> tuple[int, int]:
    length = side[1] - side[0]
    crop = max(round(length / factor), 1)
    first = side[0] + int(rng.integers(length - crop, endpoint=True))
    return first, first + crop


def brightness(pixels: Pixels, change: float) -> Pixels:
    """Multiply all values by 1 + change."""
    table = np.clip(np.arange(256) * (1 + change), 0, 255).astype(np.uint8)
    return _rgb(cv2.LUT(pixels, table))


def contrast(pixels: Pixels, change: float) -> Pixels:
    """Multiply the distance of all values from the image's mean grey by 1 + change."""
    mean = float(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean())
    return _rgb(cv2.addWeighted(pixels, 1 + change, pixels, 0, -change * mean))


def saturation(pixels: Pixels, change: float) -> Pixels:
    """Multiply the distance of all values from their pixel's grey by 1 + change."""
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _rgb(cv2.addWeighted(pixels, 1 + change, grey, -change, 0))


def hue(pixels: Pixels, change: float) -> Pixels:
    """Rotate all hues; `change` is a fraction of the colour circle."""
    values = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    values[..., 0] = (values[..., 0] + 360 * change) % 360
    return _rgb(np.rint(255 * cv2.cvtColor(values, cv2.COLOR_HSV2RGB)))


def _rgb(pixels: NDArray[Any]) -> Pixels:
    return pixels.astype(np.uint8, copy=False)  # OpenCV's annotations do not give the dtype


def colour_jitter(
    pixels: Pixels, settings: Augment, rng_of: Callable[[str], np.random.Generator]
) -> Pixels:
    """Apply the colour changes that are set to RGB pixels (H, W, 3), each drawn uniformly.

    rng_of: returns the random generator of a change, by its name in COLOURS.
    """
    for name, change in COLOURS.items():
        largest = getattr(settings, name)
        if largest:
            pixels = change(pixels, largest * rng_of(name).uniform(-1, 1))
    return pixels


# Colour changes in the order of application, by the key of `augment` with their largest value.
COLOURS: dict[str, Callable[[Pixels, float], Pixels]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}
