"""Windows of large images: tiles of which only their own pixels are read."""

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from mobile_sam.config.sections import ImageOptions, Tile
from mobile_sam.data import tiff
from mobile_sam.data.images import RecordError, open_image, read_image, to_rgb8
from mobile_sam.data.masks import Size
from mobile_sam.data.tiff import TIFF_ERRORS
from mobile_sam.data.tiles import Window
from mobile_sam.system.atomic_files import atomic_write
from mobile_sam.system.machine_errors import machine_fault

_OPENED = 8  # images that a process keeps open
_GIB = 1 << 30


def shrink(pixels: NDArray[Any], size: Size) -> NDArray[Any]:
    """Return pixels (h, w, ...) averaged to a smaller (H, W)."""
    return (
        pixels
        if pixels.shape[:2] == size
        else cv2.resize(np.ascontiguousarray(pixels), size[::-1], interpolation=cv2.INTER_AREA)
    )


def read_window(
    path: Path, options: ImageOptions, window: Window, cache: "DecodedImages"
) -> NDArray[np.uint8]:
    """Return the RGB pixels (H, W, 3) of a window, as those of `read_image`.

    A TIFF is read in place, block by block. Other images are decoded once, into files of `cache`.
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
            pixels = to_rgb8(np.asarray(image[top:bottom, x0:x1]), path, options)
        # Beyond the image, its last row and column go on.
        missing = [(0, bottom - top - pixels.shape[0]), (0, x1 - x0 - pixels.shape[1]), (0, 0)]
        whole = np.pad(pixels, missing, mode="edge") if any(map(any, missing)) else pixels
        size = (bottom - top) // window.step, window.size[1]
        bands.append(shrink(whole, size))
    return bands[0] if len(bands) == 1 else np.concatenate(bands)


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Turn what libraries raise for a damaged image into RecordError; not a full disk."""
    try:
        yield
    except RecordError:
        raise
    except (*TIFF_ERRORS, zarr.errors.BaseZarrError, *_ABSURD_SIZES) as error:
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


def windowed_size(path: Path, options: ImageOptions) -> Size | None:
    """Return (H, W) of a TIFF that is read in place; None for other images."""
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return None
    fixed = not (options.intensity == "min_max" or hasattr(options.intensity, "percentile"))
    try:
        with tifffile.TiffFile(path) as file:
            return tiff.windowed_size(file, deep=fixed) if options.bands is None else None
    except (*TIFF_ERRORS, *_ABSURD_SIZES):
        return None  # reading it as a whole names the fault


def is_large(path: Path, options: ImageOptions, tile: Tile) -> bool:
    """Return whether an image is larger than a tile; False for a file that is no image."""
    try:
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
        height, width = _opened(path, options, cache).shape[:2]
    return height, width


_reading = threading.Lock()  # tifffile's file has one position
_open_images: OrderedDict[tuple[object, ...], Any] = OrderedDict()


def _opened(path: Path, options: ImageOptions, cache: "DecodedImages") -> Any:
    """Return an open image as an array; the process that opened it is part of the key."""
    stat = path.stat()
    key = (os.getpid(), path, stat.st_size, stat.st_mtime_ns, _options_key(options))
    if key in _open_images:
        _open_images.move_to_end(key)
        return _open_images[key]
    if windowed_size(path, options) is None:
        image: Any = cache.decoded(path, options)
    else:
        image = zarr.open(tifffile.imread(path, aszarr=True, series=0, level=0), mode="r")
    _open_images[key] = image
    if len(_open_images) > _OPENED:
        _open_images.popitem(last=False)
    return image


def _options_key(options: ImageOptions) -> str:
    return options.model_dump_json(include=set(ImageOptions.model_fields))


class DecodedImages(NamedTuple):
    """Directory of decoded images, which holds up to `limit` GiB; the last used ones are kept."""

    directory: Path
    limit: float

    def decoded(self, path: Path, options: ImageOptions) -> NDArray[np.uint8]:
        """Return the RGB pixels (H, W, 3) of an image, mapped from a file."""
        stat = path.stat()
        what = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, _options_key(options)]
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
