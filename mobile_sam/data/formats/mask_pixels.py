"""Pixels of mask files, as stored and as viewers show them.

Files are PNG and other images, TIFF, and NumPy arrays.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import size_error
from mobile_sam.data.images import (
    ImageFacts,
    RecordError,
    apply_orientation,
    check_megapixels,
    check_single_page,
    describe_pixels,
    is_deep_png,
    open_image,
    several_pages_error,
)
from mobile_sam.data.masks import Mask
from mobile_sam.data.tiff import TIFF_ERRORS, SeveralPagesError, read_tiff

Numbers = NDArray[Any]  # integers, booleans or real numbers
_LOSSY = frozenset({"JPEG", "MPO", "JPEG2000"})


@dataclass(frozen=True)
class MaskPixels:
    """Pixels of a mask file, as stored and as shown.

    numbers: (H, W) as stored; None if only colours are stored.
    shown: (H, W) of grey levels, or (H, W, 3) of colours, as viewers show them.
    alpha: (H, W); None if it is constant.
    white: level of white.
    lossy: whether the format changes values.
    """

    numbers: Numbers | None
    shown: Numbers
    alpha: Numbers | None = None
    white: float = 255.0
    lossy: bool = False

    @property
    def visible(self) -> Mask:
        """Return the pixels (H, W) that are not black."""
        return np.asarray(self.shown.any(axis=-1) if self.shown.ndim == 3 else self.shown != 0)


def read_mask_pixels(path: Path, image: ImageFacts, options: Data) -> MaskPixels:
    """Read a mask file, without transparency, or with the transparency as the mask.

    Raises RecordError for a file that cannot be read, is ambiguous, or differs in size from the
    image.
    """
    try:
        pixels = _read_npy(path) if path.suffix.lower() == ".npy" else _read_picture(path, options)
    except RecordError as error:
        raise RecordError(str(error).replace("the image", "the mask")) from error
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: the mask cannot be read ({error})") from error
    size = pixels.shown.shape
    if size[:2] != image.size:
        raise size_error(path, "the mask is", (size[0], size[1]), image)
    if pixels.shown.dtype.kind == "f" and not np.isfinite(pixels.shown).all():
        raise RecordError(
            f"{path}: the mask has NaN or infinite values; save integers, with 0 outside of objects"
        )
    if pixels.numbers is not None and pixels.numbers.dtype == np.bool_:
        numbers, shown = pixels.numbers.astype(np.uint8), pixels.shown.astype(np.uint8) * 255
        pixels = replace(pixels, numbers=numbers, shown=shown.astype(np.uint8))
    return _resolve_alpha(pixels, path)


def _resolve_alpha(pixels: MaskPixels, path: Path) -> MaskPixels:
    """Return the pixels without transparency, which is the mask if the colour is constant.

    Raises RecordError if both vary and disagree.
    """
    if pixels.alpha is None:
        return pixels
    opaque = pixels.alpha != 0
    if pixels.numbers is not None and np.array_equal(opaque, pixels.numbers != 0):
        visible = opaque[..., None] if pixels.shown.ndim == 3 else opaque
        return replace(pixels, shown=pixels.shown * visible, alpha=None)
    flat = pixels.shown.reshape(pixels.alpha.size, -1)
    if (flat == flat[0]).all():
        return MaskPixels(pixels.alpha, pixels.alpha, lossy=pixels.lossy)
    if not np.array_equal(opaque, pixels.visible):
        raise RecordError(
            f"{path}: the colours and the transparency give different objects; save it without "
            "transparency"
        )
    return replace(pixels, alpha=None)


def _read_npy(path: Path) -> MaskPixels:
    """Read a .npy file as a memory map, so that a false size allocates no memory."""
    try:
        pixels: Numbers = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        if "Python objects" not in str(error):
            raise
        raise RecordError(
            f"{path}: the file holds Python objects, as cellpose's _seg.npy does, not a mask; "
            "save the masks as PNG or TIFF (cellpose: save_masks)"
        ) from None
    if pixels.dtype.kind not in "biuf":
        raise RecordError(f"{path}: the mask holds {pixels.dtype}; save integers")
    if pixels.ndim == 3 and 1 in {pixels.shape[0], pixels.shape[2]}:
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels[..., 0]
    if pixels.ndim != 2:
        raise RecordError(
            f"{path}: an array of shape {pixels.shape}, but a label map has (height, width); save "
            "a stack of masks as one file per object"
        )
    return MaskPixels(pixels, pixels, white=_white_level(pixels))


def _white_level(pixels: Numbers) -> float:
    deep = pixels.dtype.kind in "iu" and pixels.dtype.itemsize == 2
    return float(np.iinfo(pixels.dtype).max) if deep else 255.0


def _read_picture(path: Path, options: Data) -> MaskPixels:
    if path.suffix.lower() in {".tif", ".tiff"}:
        try:
            return _read_with_tifffile(path, options)
        except SeveralPagesError as error:
            raise several_pages_error(path, str(error)) from None
        except RecordError:
            raise
        except TIFF_ERRORS:  # Pillow reads more compressions, and names the damage of a file
            pass
    with open_image(path, path, options) as image:
        check_single_page(image, path)
        if image.format == "PNG" and image.mode in {"RGB", "RGBA", "LA"} and is_deep_png(path):
            raise RecordError(
                f"{path}: the mask has colours of 16 bits; save it as grey, or as RGB of 8 bits"
            )
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        pixels = _read_with_pillow(image)
        if image.format == "TIFF" and orientation in range(2, 9):  # Pillow has applied it already
            _refuse_orientation(pixels.shown, orientation, path)
        return pixels


def _read_with_pillow(image: Image.Image) -> MaskPixels:
    lossy = image.format in _LOSSY
    if image.mode in {"P", "PA"}:
        numbers = np.asarray(image if image.mode == "P" else image.getchannel(0))
        colours = np.asarray(image.convert("RGBA"))
        return MaskPixels(numbers, colours[..., :3], _varying_alpha(colours[..., 3]))
    if "transparency" in image.info and image.mode in {"1", "L", "RGB"}:
        image = image.convert("RGBA")
    if image.mode in {"LA", "La"}:
        grey, alpha = np.moveaxis(np.asarray(image), -1, 0)
        return MaskPixels(grey, grey, _varying_alpha(alpha))
    pixels = np.asarray(image)
    if pixels.ndim == 2 and image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
        # Pillow inverts the stored numbers.
        return MaskPixels(~pixels, pixels, white=_white_level(pixels), lossy=lossy)
    if pixels.ndim == 2:
        return MaskPixels(pixels, pixels, white=_white_level(pixels), lossy=lossy)
    if image.mode not in {"RGB", "RGBA"}:
        pixels = np.asarray(image.convert("RGB"))
    alpha = _varying_alpha(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return _from_colours(pixels[..., :3], alpha, lossy)


def _refuse_orientation(pixels: Numbers, orientation: int, path: Path) -> None:
    """Raise RecordError for a mask that its orientation changes; viewers differ in applying it."""
    if not np.array_equal(apply_orientation(pixels, orientation), pixels):
        raise RecordError(
            f"{path}: the orientation tag ({orientation}) turns the mask; save it upright without "
            "the tag, or set data.exif_orientation to 'ignore' to read it as stored"
        )


def _from_colours(colours: Numbers, alpha: Numbers | None, lossy: bool) -> MaskPixels:
    """Return the pixels of a colour mask, as grey levels if red, green and blue are all equal."""
    grey = colours[..., 0]
    if (colours == grey[..., None]).all():
        return MaskPixels(grey, grey, alpha, _white_level(grey), lossy)
    return MaskPixels(None, colours, alpha, _white_level(grey), lossy)


def _varying_alpha(alpha: Numbers) -> Numbers | None:
    return None if (alpha == alpha.flat[0]).all() else alpha


def _read_with_tifffile(path: Path, options: Data) -> MaskPixels:
    tiff = read_tiff(path, lambda size: check_megapixels(size, path, options))
    pixels = tiff.pixels
    if options.exif_orientation != "ignore" and 1 < tiff.orientation <= 8:
        _refuse_orientation(pixels, tiff.orientation, path)
    if tiff.are_pages:
        raise several_pages_error(path, f"{pixels.shape[2]} pages")
    if pixels.dtype.kind not in "biuf":
        raise RecordError(f"{path}: the mask holds {pixels.dtype}; save integers")
    if pixels.ndim == 2:
        return MaskPixels(pixels, tiff.shown(), None, _white_level(pixels), tiff.lossy)
    alpha = _varying_alpha(pixels[..., -1]) if tiff.alpha else None
    colours = pixels[..., :-1] if tiff.alpha else pixels
    if colours.shape[2] == 1:
        return MaskPixels(colours[..., 0], colours[..., 0], alpha, _white_level(pixels), tiff.lossy)
    if colours.shape[2] != 3 or pixels.dtype != np.uint8:
        raise RecordError(
            f"{path}: {describe_pixels(pixels)}, but a mask has one band, or three of uint8; save "
            "it as grey or RGB"
        )
    return _from_colours(colours, alpha, tiff.lossy)
