"""TIFF files as stored: numbers, bands and tags, without conversion."""

import logging
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from mobile_sam.data.pyramid import Pyramid

_REDUCED = 1  # bit of a page's subfile type that marks a smaller copy of another page
_ALPHA = {1, 2}  # values of ExtraSamples
_LOSSY = {"JPEG", "OJPEG", "JPEG_2000_LOSSY", "WEBP", "JPEGXR", "APERIO_JP2000_YCBC"}
_BANDS = ("S", "C")  # tifffile's axes of samples and of microscope channels
_MAX_BANDS = 16  # above the bands of any image, below the rows of any image

# Exceptions of tifffile and its decoders for files that are damaged or not TIFF.
TIFF_ERRORS = (
    *(tifffile.TiffFileError, OSError, ValueError, RuntimeError, LookupError, TypeError),
    *(struct.error, zlib.error, ZeroDivisionError, AttributeError),
)
# tifffile also logs the faults that it raises as exceptions.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Tiff:
    """Image in a TIFF file.

    pixels: (H, W), or (H, W, bands).
    are_pages: whether each band is a separate page.
    photometric: name of the tag's value, such as MINISWHITE.
    colours: (N, 3) of uint8, the colours of a palette by number.
    nodata: value that marks pixels without data.
    alpha: whether the last band is transparency.
    lossy: whether the compression changes values.
    orientation: tag 274, as in EXIF.
    """

    pixels: NDArray[Any]
    are_pages: bool
    photometric: str
    colours: NDArray[np.uint8] | None
    nodata: float | None
    alpha: bool
    lossy: bool
    orientation: int

    @property
    def inverted(self) -> bool:
        """Return whether viewers show 0 as white."""
        return self.photometric == "MINISWHITE"

    @property
    def has_colours(self) -> bool:
        """Return whether the first three bands of `shown` are red, green and blue."""
        return self.photometric in {"RGB", "PALETTE"} or (
            self.photometric == "YCBCR" and self.lossy  # tifffile converts JPEG's YCbCr to RGB
        )

    def shown(self) -> NDArray[Any]:
        """Return the pixels as viewers show them: colours of a palette, 0 as black."""
        if self.colours is not None and self.photometric == "PALETTE":
            return self.colours[self.pixels]
        if self.inverted and self.pixels.dtype.kind in "ub":
            white = True if self.pixels.dtype.kind == "b" else np.iinfo(self.pixels.dtype).max
            return np.asarray(white ^ self.pixels)
        return self.pixels


class SeveralPagesError(ValueError):
    """TIFF file with images of several sizes, or with more than one axis in addition to Y and X."""


def read_tiff(source: Path | BytesIO, check: Callable[[tuple[int, int]], None]) -> Tiff:
    """Read the image of a TIFF file; smaller copies of it, as in pyramids, are ignored.

    check: function that raises an error for an (H, W) that is too large, called before memory is
    allocated.
    Raises SeveralPagesError for several images that are not bands of one image, and OSError,
    ValueError or tifffile's errors for a file that cannot be read.
    """
    try:
        return _read(source, check)
    except (AssertionError, OverflowError, MemoryError) as error:
        # Damaged files claim sizes beyond all memory, and break assumptions of tifffile.
        raise tifffile.TiffFileError(f"damaged ({error})") from error


_LARGEST_BLOCK = 1 << 25  # bytes; larger blocks, such as one strip for all, are no windows


def open_tiff(path: Path, deep: bool, bands: bool) -> Pyramid | None:
    """Open the image of a TIFF whose blocks can be read one by one; None for other files.

    Values are as stored: grey, RGB, or with `bands` any bands. deep: whether they may have more
    than 8 bits. Raises `TIFF_ERRORS` for a damaged file.
    """
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        series = file.series[0]
        copies = sum(bool(p.aspage().tags.valueof(254, 0) & _REDUCED) for p in file.pages[1:])
        axes, shape = series.axes, series.shape
        others = axes.replace("Y", "").replace("X", "")
        kind = getattr(page.photometric, "name", "")
        lossy = getattr(page.compression, "name", "") in _LOSSY
        colour = (kind == "RGB" or (kind == "YCBCR" and lossy)) and page.samplesperpixel in {3, 4}
        plain = (
            len(file.pages) - copies == len(series.levels[0].pages)
            and axes.replace(others, "") == "YX"
            and len(others) <= 1
            and (bands or (colour and others == "S") or not others)
            and (kind == "MINISBLACK" or colour)
            and page.tags.valueof(274, 1) == 1
            and page.colormap is None
            # tifffile stores an array (H, W, bands) without a photometric tag as H pages.
            and not (others and shape[axes.index(others)] > _MAX_BANDS)
            # Neither of 2 or 4 bits, nor with colours that are multiplied with their opacity.
            and page.bitspersample == 8 * page.dtype.itemsize
            and 1 not in page.extrasamples
            and (page.dtype == np.uint8 or page.dtype.kind in ("uif" if deep else ""))
            and int(np.prod(page.chunks)) * page.dtype.itemsize <= _LARGEST_BLOCK
        )
        if not plain:
            return None
        count, nodata = len(series.levels), page.tags.valueof(42113)
        levels = [
            zarr.open_array(tifffile.imread(path, aszarr=True, series=0, level=level), mode="r")
            for level in range(count)
        ]
    return Pyramid(
        levels,
        bands_first=axes[0] == others,
        is_colour=colour,
        has_alpha=bool(page.extrasamples) and int(page.extrasamples[-1]) in _ALPHA,
        nodata=None if nodata is None else float(str(nodata).strip(" \0")),
    )


def _read(source: Path | BytesIO, check: Callable[[tuple[int, int]], None]) -> Tiff:
    with tifffile.TiffFile(source) as file:
        page: Any = file.pages.first
        check((int(page.imagelength), int(page.imagewidth)))
        # Counted first: tifffile 2026.3.3 searches endlessly for the series of a cycle of pages.
        count = len(file.pages)
        series = file.series[0]
        copies = sum(bool(p.aspage().tags.valueof(254, 0) & _REDUCED) for p in file.pages[1:])
        if count - copies > len(series.levels[0].pages):
            raise SeveralPagesError(f"{count} pages")
        pixels, are_pages = _move_bands_last(series.asarray(), series.axes, series.kind)
        nodata, colormap = page.tags.valueof(42113), page.colormap
        return Tiff(
            pixels=pixels,
            are_pages=are_pages,
            photometric=getattr(page.photometric, "name", ""),
            colours=None if colormap is None else (colormap.T >> 8).astype(np.uint8),
            nodata=None if nodata is None else float(str(nodata).strip(" \0")),
            alpha=bool(page.extrasamples) and int(page.extrasamples[-1]) in _ALPHA,
            lossy=getattr(page.compression, "name", "") in _LOSSY,
            orientation=int(page.tags.valueof(274, 1)),
        )


def _move_bands_last(pixels: NDArray[Any], axes: str, kind: str) -> tuple[NDArray[Any], bool]:
    """Return the pixels (H, W) or (H, W, bands), and whether the bands are pages of the file."""
    used = [n for n, axis in enumerate(axes) if pixels.shape[n] > 1 or axis in "YX"]
    pixels = pixels.reshape([pixels.shape[n] for n in used])
    axes = "".join(axes[n] for n in used)
    others = [axis for axis in axes if axis not in "YX"]
    if not others:
        return pixels, False
    if len(others) > 1:
        raise SeveralPagesError(f"axes {axes}")
    if (
        kind == "shaped"
        and axes[0] == others[0]
        and pixels.shape[2] < _MAX_BANDS <= pixels.shape[0]
    ):
        # tifffile stores an array (H, W, bands) without a photometric tag as H pages of W x bands.
        return pixels, False
    return np.moveaxis(pixels, axes.index(others[0]), -1), others[0] not in _BANDS
