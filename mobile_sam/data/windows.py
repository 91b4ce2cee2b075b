"""Windows of large images: tiles of which only their own pixels are read."""

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from mobile_sam.config.sections import ImageOptions, Tile
from mobile_sam.data.images import (
    RecordError,
    open_image,
    open_zarr_image,
    part_to_rgb8,
    read_image,
)
from mobile_sam.data.masks import Size
from mobile_sam.data.ome_zarr import ZARR_ERRORS, is_ome_zarr
from mobile_sam.data.pyramid import Pyramid
from mobile_sam.data.tiff import TIFF_ERRORS, open_tiff
from mobile_sam.data.tiles import Window, shrink
from mobile_sam.system.atomic_files import atomic_write
from mobile_sam.system.directories import path_stamp
from mobile_sam.system.machine_errors import machine_fault

_OPENED = 8  # images that a process keeps open
_GIB = 1 << 30


def read_window(
    path: Path, options: ImageOptions, window: Window, cache: "DecodedImages"
) -> NDArray[np.uint8]:
    """Return the RGB pixels (H, W, 3) of a window, as those of `read_image`.

    A TIFF or an OME-Zarr is read in place, block by block; with a step, from the smallest copy of
    the image that has enough pixels. Other images are decoded once, into files of `cache`.
    Raises RecordError for a file that cannot be read.
    """
    x0, y0, x1, y1 = window.box
    with _naming_damage(path), _reading:
        image = _opened(path, options, cache)
    rows = window.step * max(1, _BAND // window.step)
    bands = []
    for top in range(y0, y1, rows):
        bottom = min(top + rows, y1)
        with _naming_damage(path), _reading:
            stored, scale = image.read(x0, top, x1, bottom, window.step)
            pixels = part_to_rgb8(stored, path, options, image)
        # Beyond the image, its last row and column go on.
        height, width = (bottom - top) // scale, (x1 - x0) // scale
        missing = [(0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)]
        whole = np.pad(pixels, missing, mode="edge") if any(map(any, missing)) else pixels
        bands.append(shrink(whole, ((bottom - top) // window.step, window.size[1])))
    return bands[0] if len(bands) == 1 else np.concatenate(bands)


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Turn what libraries raise for a damaged image into RecordError; not a full disk."""
    try:
        yield
    except RecordError:
        raise
    except (*TIFF_ERRORS, *ZARR_ERRORS, *_ABSURD_SIZES) as error:
        if machine_fault(error):
            raise
        raise RecordError(
            f"{path}: the image cannot be read ({error}); it is damaged or truncated; copy it again"
        ) from error


_BAND = 1024  # rows that are read at once
_ABSURD_SIZES = (AssertionError, OverflowError, MemoryError)  # that damaged files claim


def pixel_digest(pixels: NDArray[np.uint8]) -> str:
    """Return a digest of the pixels of a tile, (H, W, 3)."""
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()[:32]


def open_in_place(path: Path, options: ImageOptions) -> Pyramid | None:
    """Return an image that is read in windows, in place; None for one that must be decoded.

    Raises RecordError for an OME-Zarr without an image.
    """
    fixed = not (options.intensity == "min_max" or hasattr(options.intensity, "percentile"))
    if is_ome_zarr(path):
        pyramid = open_zarr_image(path).pyramid
        return pyramid if fixed or pyramid.levels[0].dtype == np.uint8 else None
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return None
    try:
        return open_tiff(path, deep=fixed, bands=options.bands is not None)
    except (*TIFF_ERRORS, *_ABSURD_SIZES):
        return None  # reading it as a whole names the fault


def is_large(path: Path, options: ImageOptions, tile: Tile) -> bool:
    """Return whether an image is larger than a tile; False for a file that is no image."""
    try:
        if is_ome_zarr(path):
            return max(open_zarr_image(path).pyramid.size) > tile.size
        with open_image(path, path, options) as image:
            return max(image.size) > tile.size
    except RecordError:
        pass  # a TIFF that Pillow does not know, or a large one
    try:
        with tifffile.TiffFile(path) as file:
            return max(file.pages.first.shape) > tile.size
    except (*TIFF_ERRORS, *_ABSURD_SIZES):
        return False  # reading it as a whole names the fault


def upright_size(path: Path, options: ImageOptions, cache: "DecodedImages") -> Size:
    """Return (H, W) of an image of which windows are read. Raises RecordError."""
    with _naming_damage(path), _reading:
        return _opened(path, options, cache).size


_reading = threading.Lock()  # tifffile's file has one position
_open_images: OrderedDict[tuple[object, ...], Pyramid] = OrderedDict()


def _opened(path: Path, options: ImageOptions, cache: "DecodedImages") -> Pyramid:
    """Return an open image; the process that opened it is part of the key."""
    stat = path.stat()
    key = (os.getpid(), path, stat.st_size, stat.st_mtime_ns, _options_key(options))
    if key in _open_images:
        _open_images.move_to_end(key)
        return _open_images[key]
    image = open_in_place(path, options) or Pyramid([cache.decoded(path, options)])
    _open_images[key] = image
    if len(_open_images) > _OPENED:
        _open_images.popitem(last=False)
    return image


def _options_key(options: ImageOptions) -> str:
    return options.model_dump_json(include=set(ImageOptions.model_fields))


class LargeImage(NamedTuple):
    """Image of which windows are read. size: (H, W)."""

    path: Path
    options: ImageOptions
    cache: "DecodedImages"
    size: Size

    @classmethod
    def open(cls, path: Path, options: ImageOptions, cache: "DecodedImages") -> "LargeImage":
        """Open an image. Raises RecordError for one that cannot be read."""
        return cls(path, options, cache, upright_size(path, options, cache))

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Return the RGB pixels (H, W, 3) of a window, see `read_window`."""
        return read_window(self.path, self.options, window, self.cache)


class DecodedImages(NamedTuple):
    """Directory of decoded images, which holds up to `limit` GiB; the last used ones are kept."""

    directory: Path
    limit: float

    def decoded(self, path: Path, options: ImageOptions) -> NDArray[np.uint8]:
        """Return the RGB pixels (H, W, 3) of an image, mapped from a file."""
        what = [str(path.resolve()), path_stamp(path), _options_key(options)]
        name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
        target = self.directory / f"{name}.npy"
        with suppress(OSError):  # another process may own the file, or delete it
            os.utime(target)
        try:
            pixels: NDArray[np.uint8] = np.load(target, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            pixels = read_image(path, options)
            self._write(target, pixels)
        return pixels

    def _write(self, target: Path, pixels: NDArray[np.uint8]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        kept = {}
        for path in self.directory.glob("*.npy"):
            with suppress(FileNotFoundError):  # another process has deleted it
                kept[path] = path.stat()
        space = self.limit * _GIB - pixels.nbytes
        for path, stat in sorted(kept.items(), key=lambda item: -item[1].st_mtime):
            space -= stat.st_size
            if space < 0:
                path.unlink(missing_ok=True)
        with atomic_write(target) as unfinished, unfinished.open("wb") as file:
            np.save(file, pixels)
