"""TIFF files as they are stored: numbers, bands and tags, before anything is made of them."""

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
from numpy.typing import NDArray

_REDUCED = 1  # the bit of a page's subfile type that marks a smaller copy of another page
_ALPHA = {1, 2}  # of ExtraSamples
_LOSSY = {"JPEG", "OJPEG", "JPEG_2000_LOSSY", "WEBP", "JPEGXR", "APERIO_JP2000_YCBC"}
_BANDS = ("S", "C")  # axes of tifffile: samples of a pixel, channels of a microscope
_MAX_BANDS = 16  # more bands than an image has, and fewer rows


# What tifffile and its decoders raise for files that are damaged, or not TIFF at all.
TIFF_ERRORS = (
    *(tifffile.TiffFileError, OSError, ValueError, RuntimeError, LookupError, TypeError),
    *(struct.error, zlib.error, ZeroDivisionError, AttributeError),
)
# It tells of faults that are raised as errors, too.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Tiff:
    """The picture of a TIFF file.

    pixels: (H, W), or (H, W, bands). are_pages: whether each band is a page of its own.
    photometric: name of the tag's value, such as MINISWHITE. colours: (N, 3) of uint8, the colour
    of each number of a palette. nodata: the value that marks pixels without data. alpha: whether
    the last band is transparency. lossy: whether the compression changes values.
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
            self.photometric == "YCBCR" and self.lossy  # tifffile gives RGB of JPEG's YCbCr
        )

    def shown(self) -> NDArray[Any]:
        """The pixels as viewers show them: colours of a palette, 0 as black."""
        if self.colours is not None and self.photometric == "PALETTE":
            return self.colours[self.pixels]
        if self.inverted and self.pixels.dtype.kind in "ub":
            most = True if self.pixels.dtype.kind == "b" else np.iinfo(self.pixels.dtype).max
            return np.asarray(most ^ self.pixels)
        return self.pixels


class SeveralPagesError(ValueError):
    """A TIFF file with pictures of several sizes, or with more than one axis beside Y and X."""


def read_tiff(source: Path | BytesIO, check: Callable[[tuple[int, int]], None]) -> Tiff:
    """Read the picture of a TIFF file; smaller copies of it, as in pyramids, are left aside.

    check: raises an error for an (H, W) that is too large, before memory is taken for it.
    Raises SeveralPagesError for several pictures that are not bands of one, and OSError,
    ValueError or tifffile's errors for a file that cannot be read.
    """
    try:
        return _read(source, check)
    except (AssertionError, OverflowError, MemoryError) as error:
        # Damaged files claim sizes beyond all memory, and break what tifffile takes for granted.
        raise tifffile.TiffFileError(f"damaged ({error})") from error


def _read(source: Path | BytesIO, check: Callable[[tuple[int, int]], None]) -> Tiff:
    with tifffile.TiffFile(source) as file:
        page: Any = file.pages.first
        check((int(page.imagelength), int(page.imagewidth)))
        # Counted first: tifffile 2026.3.3 looks for the series of a ring of pages without end.
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
    kept = [n for n, axis in enumerate(axes) if pixels.shape[n] > 1 or axis in "YX"]
    pixels = pixels.reshape([pixels.shape[n] for n in kept])
    axes = "".join(axes[n] for n in kept)
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
