"""Random changes of training images: of geometry, with the masks, and of colours, without them."""

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

    rows, columns: (first, end) of the shown part, in pixels of the image.
    longest: pixels of the shown part's longest side in the model frame; the rest is padding.
    mirrored: whether left and right change places.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    longest: int
    mirrored: bool = False

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """The shown part of an image (H, W, 3) or a mask (H, W)."""
        part = array[slice(*self.rows), slice(*self.columns)]
        return np.ascontiguousarray(part[:, ::-1]) if self.mirrored else part

    def touches(self, box: tuple[int, int, int, int]) -> bool:
        """Return whether a box, xyxy in pixels of the image, overlaps the visible part."""
        x0, y0, x1, y1 = box
        (top, bottom), (left, right) = self.rows, self.columns
        return x0 < right and x1 > left and y0 < bottom and y1 > top

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the shown part in pixels of the image."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    @property
    def view(self) -> str:
        """The name of the stored teacher features that show the same, at full size."""
        return "hflip" if self.mirrored else "identity"


def full_view(size: tuple[int, int], img_size: int, mirrored: bool = False) -> Geometry:
    """All of an image of `size` (H, W), as large as the model frame allows."""
    return Geometry((0, size[0]), (0, size[1]), img_size, mirrored)


def random_rescale(geometry: Geometry, scale: float, rng: np.random.Generator) -> Geometry:
    """A whole image at 1 - scale to 1 + scale times its size.

    What becomes too large for the frame is cropped at random; what becomes smaller is padded.
    """
    factor = 1 + scale * rng.uniform(-1, 1)
    if factor <= 1:
        return replace(geometry, longest=max(round(geometry.longest * factor), 1))
    rows, columns = (_random_crop(end, factor, rng) for _, end in (geometry.rows, geometry.columns))
    return replace(geometry, rows=rows, columns=columns)


def _random_crop(length: int, factor: float, rng: np.random.Generator) -> tuple[int, int]:
    kept = max(round(length / factor), 1)
    first = int(rng.integers(length - kept, endpoint=True))
    return first, first + kept


def brightness(pixels: Pixels, change: float) -> Pixels:
    """Multiply all values by 1 + change."""
    table = np.clip(np.arange(256) * (1 + change), 0, 255).astype(np.uint8)
    return _rgb(cv2.LUT(pixels, table))


def contrast(pixels: Pixels, change: float) -> Pixels:
    """Multiply the distance to the image's mean grey by 1 + change."""
    mean = float(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean())
    return _rgb(cv2.addWeighted(pixels, 1 + change, pixels, 0, -change * mean))


def saturation(pixels: Pixels, change: float) -> Pixels:
    """Multiply the distance to the pixel's own grey by 1 + change."""
    grey = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _rgb(cv2.addWeighted(pixels, 1 + change, grey, -change, 0))


def hue(pixels: Pixels, change: float) -> Pixels:
    """Rotate hues by `change` of the colour circle."""
    values = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    values[..., 0] = (values[..., 0] + 360 * change) % 360
    return _rgb(np.rint(255 * cv2.cvtColor(values, cv2.COLOR_HSV2RGB)))


def _rgb(pixels: NDArray[Any]) -> Pixels:
    return pixels.astype(np.uint8, copy=False)  # OpenCV's annotations do not know its type


def colour_jitter(
    pixels: Pixels, settings: Augment, rng_of: Callable[[str], np.random.Generator]
) -> Pixels:
    """RGB pixels (H, W, 3) with each change of colour that is set, uniformly drawn.

    rng_of: the generator of a change, by its name.
    """
    for name, change in COLOURS.items():
        largest = getattr(settings, name)
        if largest:
            pixels = change(pixels, largest * rng_of(name).uniform(-1, 1))
    return pixels


# Changes of colour, in the order in which they are made, by the key of their largest change.
COLOURS: dict[str, Callable[[Pixels, float], Pixels]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}
