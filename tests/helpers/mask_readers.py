"""Readers of PNG and TIFF masks that share nothing with the package: Pillow, tifffile, scipy."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

from mobile_sam.config.sections import Data
from tests.helpers.readings import NoMeaningError, Reading, Segment, Size, exactly

_MANY = 10**6  # pixels: more than any example has


@dataclass(frozen=True)
class Picture:
    """Both readings of a file. numbers: (H, W) as stored, None where only colours are.

    shown: grey levels (H, W) or colours (H, W, 3). full: the level of white, None where nobody
    says. clear: whether all libraries read it alike.
    """

    numbers: np.ndarray | None
    shown: np.ndarray
    alpha: np.ndarray | None = None
    full: float | None = 255.0
    clear: bool = True
    lossy: bool = False

    @property
    def level(self) -> np.ndarray:
        """The brightest channel (H, W)."""
        return self.shown.max(axis=-1) if self.shown.ndim == 3 else self.shown

    @property
    def visible(self) -> np.ndarray:
        """What is not black (H, W)."""
        return self.level != 0

    @property
    def colours(self) -> np.ndarray:
        """One number (H, W) for each colour, as in `#rrggbb`."""
        if self.shown.ndim == 2:
            kind = np.float64 if self.shown.dtype.kind == "f" else object
            return self.shown.astype(kind) * 0x10101
        return (self.shown.astype(np.int64) * [1 << 16, 1 << 8, 1]).sum(axis=-1)


def grey(numbers: np.ndarray, shown: np.ndarray | None = None) -> Picture:
    """Return a picture of one channel (H, W), with the level of white of its type."""
    if numbers.dtype == bool:
        numbers = numbers.astype(np.uint8)
        return Picture(numbers, numbers * np.uint8(255) if shown is None else shown)
    whole = numbers.dtype.kind in "iu"
    known = whole and numbers.dtype.itemsize <= 2 and numbers.dtype != np.int8
    deep = float(np.iinfo(numbers.dtype).max) if known else None
    return Picture(numbers, numbers if shown is None else shown, None, deep)


def coloured(pixels: np.ndarray) -> Picture:
    """Return a picture of RGB or RGBA (H, W, bands); grey where all channels are equal."""
    colours, alpha = pixels[..., :3], pixels[..., 3] if pixels.shape[2] == 4 else None
    if (colours == colours[..., :1]).all():
        return replace(grey(colours[..., 0]), alpha=alpha)
    return Picture(None, colours, alpha)


# Files ------------------------------------------------------------------------------------------


def read_png(path: Path) -> Picture:
    """Read a PNG with Pillow. Raises NoMeaningError."""
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise NoMeaningError("several frames")
            if image.width * image.height > _MANY:
                raise NoMeaningError("another size")
            image.load()
            return _of_pillow(image, path)
    except NoMeaningError:
        raise
    except Exception as error:
        raise NoMeaningError(str(error)) from error


def _of_pillow(image: Image.Image, path: Path) -> Picture:
    if image.mode == "P":
        colours = np.asarray(image.convert("RGBA"))
        return Picture(np.asarray(image), colours[..., :3], colours[..., 3])
    if "transparency" in image.info and image.mode in {"1", "L", "RGB"}:
        image = image.convert("RGBA")
    if image.format == "PNG" and image.mode in {"LA", "RGB", "RGBA"} and path.read_bytes()[24] > 8:
        raise NoMeaningError("16 bits a channel")
    pixels = np.asarray(image)
    if image.mode == "LA":
        return replace(grey(pixels[..., 0]), alpha=pixels[..., 1])
    if pixels.ndim == 3:
        return coloured(np.asarray(image.convert("RGBA" if image.mode == "RGBA" else "RGB")))
    return grey(pixels)


def read_tiff(path: Path, size: Size, options: Data) -> Picture:
    """Read a TIFF of (H, W) with tifffile, or with Pillow where tifffile fails.

    Raises NoMeaningError; for one of another size before it takes memory.
    """
    several = False
    try:
        with tifffile.TiffFile(path) as file:
            several = len(file.pages) > 1
            if several and all(page.aspage().shape for page in file.pages) and file.series:
                raise NoMeaningError("several pages")
            if several:
                raise ValueError("what follows the first page is none")
            page = file.pages.first
            if (page.imagelength, page.imagewidth) != size or page.imagedepth > 1:
                raise NoMeaningError("another size")
            orientation = page.tags.valueof(274, 1)
            picture = _of_tifffile(page)
            picture = replace(picture, clear=picture.clear and _is_one(page.asarray(), path))
    except NoMeaningError:
        raise
    except Exception:  # noqa: BLE001 - Pillow may read what tifffile does not
        picture = _tiff_of_pillow(path)
        picture = replace(picture, clear=picture.clear and not several and _of_series(path) is None)
        with Image.open(path) as image:
            orientation = image.tag_v2.get(274, 1)  # type: ignore[attr-defined]
    return _upright(picture, orientation, options)


def _of_series(path: Path) -> np.ndarray | None:
    """The pixels as tifffile reads a whole file; damaged ones differ from those of the page."""
    try:
        with tifffile.TiffFile(path) as file:
            # Counted first: tifffile looks for the series of a ring of pages without end.
            several = len(file.pages) > 1 or file.pages.first.size > _MANY
            return None if several else file.series[0].asarray().squeeze()
    except Exception:  # noqa: BLE001 - whatever tifffile raises, the file is damaged
        return None


def _is_one(stored: np.ndarray, path: Path) -> bool:
    """Whether tifffile reads the same pixels of the page and of the file."""
    other = _of_series(path)
    equal_nan = stored.dtype.kind == "f"
    return other is not None and np.array_equal(stored.squeeze(), other, equal_nan=equal_nan)


def _of_tifffile(page: tifffile.TiffPage) -> Picture:
    stored = page.asarray()
    if stored.ndim == 2 and not isinstance(page.photometric, tifffile.PHOTOMETRIC):
        return replace(grey(stored), clear=False)  # the tag is damaged
    photometric = int(page.photometric)
    jpeg = int(page.compression) in {6, 7, 34892, 33003, 33004, 33005}
    if jpeg:
        return replace(grey(stored), clear=photometric == 1 and stored.ndim == 2, lossy=True)
    if stored.ndim == 3 and page.axes in {"YXS", "SYX"}:
        return _of_bands(page, np.moveaxis(stored, 0, -1) if page.axes == "SYX" else stored)
    if stored.ndim != 2 or stored.dtype.kind not in "biuf":
        raise NoMeaningError("no picture")
    if photometric == 3 and page.colormap is not None:
        return Picture(stored, (page.colormap.T >> 8).astype(np.uint8)[stored])
    if photometric == 0 and stored.dtype.kind in "ub":
        most = 1 if stored.dtype.kind == "b" else np.iinfo(stored.dtype).max
        seen = (most - stored.astype(object)).astype(np.uint8 if most == 1 else stored.dtype)
        return grey(stored, seen * np.uint8(255) if most == 1 else seen)
    return replace(grey(stored), clear=photometric == 1)


def _of_bands(page: tifffile.TiffPage, bands: np.ndarray) -> Picture:
    alpha = bool(page.extrasamples) and int(page.extrasamples[-1]) in {1, 2}
    kind = int(page.photometric), bands.shape[2], bands.dtype
    if kind == (2, 3 + alpha, np.dtype(np.uint8)):
        return coloured(bands)
    if alpha and kind[:2] == (1, 2):
        return replace(grey(bands[..., 0]), alpha=bands[..., 1])
    return replace(grey(bands[..., 0]), clear=False)


def _tiff_of_pillow(path: Path) -> Picture:
    picture = read_png(path)
    with Image.open(path) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        photometric, mode, compression = tags.get(262), image.mode, image.info.get("compression")
    if compression in {"jpeg", "tiff_jpeg", "webp"}:
        return replace(picture, clear=False, lossy=True)
    if photometric == 0 and picture.numbers is not None and mode in {"1", "L"}:
        return replace(picture, numbers=(1 if mode == "1" else 255) - picture.numbers)
    return replace(picture, clear=photometric in {1, 2, 3})


def _upright(picture: Picture, orientation: object, options: Data) -> Picture:
    """The picture itself; one that the tag would turn has two readings."""
    if orientation not in range(2, 9) or options.exif_orientation == "ignore":
        return picture
    turns = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90,
    }
    parts = [part for part in (picture.numbers, picture.shown, picture.alpha) if part is not None]
    if not all(np.array_equal(turns[orientation](part), part) for part in parts):  # type: ignore[index]
        raise NoMeaningError("an orientation that changes the mask")
    return picture


# Segments ---------------------------------------------------------------------------------------


def read_mask(path: Path, size: Size, options: Data) -> Picture:
    """Read a mask of an image of (H, W). Raises NoMeaningError."""
    picture = read_tiff(path, size, options) if path.suffix == ".tif" else read_png(path)
    if picture.shown.shape[:2] != size:
        raise NoMeaningError("another size")
    for part in (picture.shown, picture.numbers):
        if part is not None and part.dtype.kind == "f" and not np.isfinite(part).all():
            raise NoMeaningError("no numbers")
    alpha = picture.alpha
    if alpha is None or (alpha == alpha.flat[0]).all():
        return replace(picture, alpha=None)
    if (picture.shown == picture.shown[:1, :1]).all():
        return replace(grey(alpha), clear=picture.clear)
    if picture.numbers is not None and np.array_equal(alpha != 0, picture.numbers != 0):
        there = (alpha != 0).astype(picture.shown.dtype)  # what is seen through is not seen
        return replace(picture, shown=(picture.shown.T * there.T).T, alpha=None)
    if not np.array_equal(alpha != 0, picture.visible):
        raise NoMeaningError("colour and transparency disagree")
    return replace(picture, alpha=None)


def is_hard(values: np.ndarray) -> bool:
    """Whether nothing looks smooth or lossy: values far apart, and black between objects."""
    there = [int(value) for value in np.unique(values)]
    if len(there) <= 2:
        return True
    few = len(there) <= 6 and there[0] >= 0
    apart = there[-1] < 128 or all(b - a > 16 for a, b in pairwise(there))
    touching = any(
        ((first != second) & (first != 0) & (second != 0)).any()
        for first, second in ((values[1:], values[:-1]), (values[:, 1:], values[:, :-1]))
    )
    return few and apart and not touching


def _threshold(picture: Picture, options: Data, reading: Reading) -> np.ndarray:
    """What is brighter than a share of white (H, W)."""
    seen = _bright(picture.level, picture, options)
    reading.unknown |= picture.full is None
    numbers, by = picture.numbers, options.read_masks_by
    if numbers is None or by == "colour" or np.array_equal(numbers != 0, picture.visible):
        return seen
    if picture.shown.ndim == 3:  # a palette, whose numbers are no levels
        reading.unknown = True
        return seen
    stored = _bright(numbers, picture, options)
    if by == "both" and not np.array_equal(stored, seen):
        raise NoMeaningError("stored numbers and colours disagree")
    return stored


def _bright(level: np.ndarray, picture: Picture, options: Data) -> np.ndarray:
    share = float(options.soft_masks)
    full = 1.0 if level.max() <= 1 else picture.full or 255.0
    return level.astype(np.float64) > share * full


def read_label_map(path: Path, image_id: str, size: Size, options: Data) -> Reading:
    """Read the segments of a label map."""
    reading = Reading({image_id: []})
    try:
        picture = read_mask(path, size, options)
        reading.unknown |= not picture.clear
        if isinstance(options.soft_masks, float):
            labels, names = _threshold(picture, options, reading).astype(int), "{}"
        else:
            labels, names = _labels(picture, options, reading)
    except NoMeaningError:
        reading.missed()
        return reading
    for value in np.unique(labels):
        if value:
            found = [labels == value]
            if options.split_components:
                parts, count = ndimage.label(labels == value)
                found = [parts == n for n in range(1, count + 1)]
            reading.segments[image_id] += [
                exactly(m, value=names.format(value) or None) for m in found
            ]
    return reading


def _labels(picture: Picture, options: Data, reading: Reading) -> tuple[np.ndarray, str]:
    """Values (H, W) that mark segments, and how their names are written."""
    numbers, by = picture.numbers, options.read_masks_by
    if picture.lossy and options.soft_masks == "refuse":
        raise NoMeaningError("values that were changed")
    channel = picture.colours if numbers is None or by == "colour" else numbers
    if channel.dtype.kind == "f" or picture.shown.dtype.kind == "f":
        whole = picture.shown if numbers is None else numbers
        if (whole != np.rint(whole)).any():
            raise NoMeaningError("fractions")
    if options.soft_masks == "refuse":
        reading.sure &= is_hard(picture.level) and (numbers is None or is_hard(numbers))
        reading.sure &= picture.shown.ndim == 2 or len(np.unique(picture.colours)) <= 2
    if numbers is None or by == "colour":
        names = "#{:06x}" if picture.shown.dtype == np.uint8 else ""  # others have no such name
        return channel.astype(np.int64 if channel.dtype.kind == "f" else object), names
    values = np.unique(numbers)
    if by == "both" and len(values) == 2 and values[0] == 0:
        dark, bright = (picture.shown[numbers == value][0].astype(float).sum() for value in values)
        if dark > bright >= 0:
            raise NoMeaningError("stored numbers and colours disagree")
    return numbers.astype(object), "{:.0f}" if numbers.dtype.kind == "f" else "{}"


def read_mask_files(paths: list[Path], image_id: str, size: Size, options: Data) -> Reading:
    """Read the segments of a directory of masks, one object each."""
    reading = Reading({image_id: []})
    empty = 0
    for path in paths:
        try:
            mask = _object(path, size, options, reading)
        except NoMeaningError:
            reading.missed()
            continue
        if mask.any():
            reading.segments[image_id] += _parts(path.stem, mask, options)
        else:
            empty += 1
    if 0 < empty < len(paths):
        reading.missed()
    return reading


def _parts(name: str, mask: np.ndarray, options: Data) -> list[Segment]:
    if not options.split_components:
        return [exactly(mask, segment_id=name)]
    parts, count = ndimage.label(mask)
    return [exactly(parts == n) for n in range(1, count + 1)]


def _object(path: Path, size: Size, options: Data, reading: Reading) -> np.ndarray:
    """The one object of a file (H, W). Raises NoMeaningError where there may be two readings."""
    picture = read_mask(path, size, options)
    reading.unknown |= not picture.clear
    if isinstance(options.soft_masks, float):
        return _threshold(picture, options, reading)
    if picture.lossy and options.soft_masks == "refuse":
        raise NoMeaningError("values that were changed")
    numbers, by = picture.numbers, options.read_masks_by
    seen, counted = picture.visible, picture.colours
    if numbers is not None and by == "number":
        seen, counted = numbers != 0, numbers
    elif numbers is not None and by == "both" and not np.array_equal(numbers != 0, seen):
        if (numbers == 0).any() or len(np.unique(numbers)) == 1:
            raise NoMeaningError("stored numbers and colours disagree")
        reading.sure = False
    if options.soft_masks == "refuse" and len(set(counted[counted != 0].tolist())) > 1:
        raise NoMeaningError("several objects")
    return seen
