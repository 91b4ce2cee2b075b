"""OME-Zarr directories: images in chunks, with smaller copies.

OME-NGFF 0.4 and 0.5, https://ngff.openmicroscopy.org/0.5/.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from mobile_sam.data.pyramid import Pyramid
from mobile_sam.system.errors import UserError

SUFFIX = ".zarr"
_METRES = {
    "nanometer": 1e-9,
    "micrometer": 1e-6,
    "millimeter": 1e-3,
    "centimeter": 1e-2,
    "meter": 1,
}
ZARR_ERRORS = (
    *(zarr.errors.BaseZarrError, OSError, ValueError, RuntimeError, LookupError, TypeError),
    AttributeError,
)


class OmeZarrError(UserError):
    """Directory that is no OME-Zarr image of one plane; the message does not name it."""


class OmeZarr(NamedTuple):
    """Image of an OME-Zarr directory. pixel_size: of a pixel, x and y in metres, if known."""

    pyramid: Pyramid
    pixel_size: tuple[float, float] | None


def is_ome_zarr(path: Path) -> bool:
    """Return whether a path is that of a directory in Zarr's format."""
    return path.suffix.lower() == SUFFIX and path.is_dir()


def open_ome_zarr(path: Path) -> OmeZarr:
    """Open the first image of a directory; no pixels are read.

    Raises OmeZarrError for a directory without an image of one plane, and `ZARR_ERRORS` for a
    damaged one.
    """
    group = zarr.open_group(path, mode="r")
    attributes: Any = group.attrs.get("ome", group.attrs)
    if "multiscales" not in attributes:
        raise OmeZarrError("it has no `multiscales` of OME-Zarr; export the image as OME-Zarr")
    image = attributes["multiscales"][0]
    names = [
        axis["name"] if isinstance(axis, dict) else axis for axis in image.get("axes", "tczyx")
    ]
    levels = []
    for dataset in image["datasets"]:
        if dataset["path"] not in group:
            raise OmeZarrError(
                f"the pyramid level {dataset['path']!r} that its metadata lists is missing; copy "
                "the directory again"
            )
        levels.append(_Plane(group[dataset["path"]], names))
    bands = levels[0].shape[0] if levels[0].ndim == 3 else 1
    is_colour = bands == 3 and levels[0].dtype == np.uint8
    pyramid = Pyramid(levels, bands_first=True, is_colour=is_colour, has_alpha=False)
    return OmeZarr(pyramid, _pixel_size(image, names))


class _Plane:
    """Array of an image as (H, W) or (bands, H, W), without its other axes."""

    def __init__(self, array: Any, names: list[str]) -> None:
        stored = array.metadata.to_dict()
        codecs = [stored.get("compressor"), *(stored.get("filters") or ())]
        if any(codec and codec.get("id") == "pickle" for codec in codecs):
            raise OmeZarrError(
                "its chunks hold Python objects, which can run code; export it again"
            )
        if len(names) != len(array.shape) or names[-2:] != ["y", "x"]:
            raise OmeZarrError(
                f"its axes are {', '.join(names)} and its array has {len(array.shape)} dimensions; "
                "the last two must be y and x"
            )
        others = zip(names[:-2], array.shape[:-2], strict=True)
        several = [f"{name} {count}" for name, count in others if count > 1 and name != "c"]
        if several:
            raise OmeZarrError(
                f"it has several planes ({', '.join(several)}); save each one as an image"
            )
        self._array = array
        bands = array.shape[names.index("c")] if "c" in names else 1
        self._front = tuple(slice(None) if name == "c" and bands > 1 else 0 for name in names[:-2])
        self.shape: tuple[int, ...] = (*([bands] if bands > 1 else []), *array.shape[-2:])
        self.ndim, self.dtype = len(self.shape), array.dtype

    def __getitem__(self, places: Any) -> Any:
        inner = places if isinstance(places, tuple) else (places,)
        return self._array[(*self._front, *inner[self.ndim - 2 :])]


def _pixel_size(image: Any, names: list[str]) -> tuple[float, float] | None:
    units = {axis["name"]: axis.get("unit", "") for axis in image.get("axes", []) if "name" in axis}
    x, y = (_METRES.get(units.get(name, "")) for name in "xy")
    for transform in image["datasets"][0].get("coordinateTransformations", []):
        if transform.get("type") == "scale" and x and y and len(transform["scale"]) == len(names):
            return transform["scale"][-1] * x, transform["scale"][-2] * y
    return None
