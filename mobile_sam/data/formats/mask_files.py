"""Masks as image files: a file for each object, or one label map for each image.

A file for each object is read by its colour, as viewers show it: pixels that are not black are the
object. A label map is read by the stored numbers, or by colour if only colours are stored. If both
readings are possible and disagree, the file is refused.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items, size_error
from mobile_sam.data.formats.softness import softness_reason
from mobile_sam.data.formats.text_files import read_lines
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
from mobile_sam.data.masks import Mask, encode, encode_labels, split_labels
from mobile_sam.data.record import Record
from mobile_sam.data.tiff import TIFF_ERRORS, SeveralPagesError, read_tiff

MASK_SUFFIXES = frozenset(
    {".png", ".bmp", ".tif", ".tiff", ".npy", ".gif", ".webp", ".jpg", ".jpeg"}
)
Numbers = NDArray[Any]  # integers, booleans or real numbers
_LOSSY = frozenset({"JPEG", "MPO", "JPEG2000"})
_THRESHOLD_REMEDY = "set data.soft_masks to a threshold such as 0.5"


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


def read_mask_files(record: Record, image: ImageFacts, options: Data) -> Items:
    """Read files with one object each; an empty file next to files with objects is an error."""
    empty: list[Path] = []
    for path in record.sources:
        try:
            mask = _read_binary_mask(path, image, options)
        except RecordError as error:
            yield error
            continue
        if mask.any():
            yield from _mask_annotations(path.stem, path, mask, options)
        else:
            empty.append(path)
    if len(empty) < len(record.sources):
        for path in empty:
            yield RecordError(
                f"{path}: the mask is empty; delete it (for an image without objects: a single "
                "empty mask, or an empty directory)"
            )


def read_label_map(record: Record, image: ImageFacts, options: Data) -> Items:
    """Read a file in which each value but 0, or each colour but black, is a segment."""
    path, *naming = record.sources
    pixels = _resolve_alpha(_read_mask_pixels(path, image, options), path)
    if isinstance(options.soft_masks, float):
        mask = _apply_threshold(pixels, options.soft_masks, path, options)
        yield from _label_annotations(path, mask.astype(np.uint8), options)
    elif pixels.numbers is None or options.read_masks_by == "colour":
        _refuse_soft(pixels, path, options)
        yield from _colour_annotations(path, _to_integers(pixels.shown, path), naming, options)
    else:
        _refuse_soft(pixels, path, options)
        if options.read_masks_by == "both":
            _refuse_bright_zero(pixels, path)
        names = _names_of_numbers(pixels, naming)
        for item in _label_annotations(path, _to_integers(pixels.numbers, path), options):
            yield replace(item, category=names.get(item.value))


def _names_of_numbers(pixels: MaskPixels, naming: Sequence[Path]) -> dict[str | None, str]:
    """Return names for the values of a palette, by their colours; none without a file of names."""
    if not naming or pixels.numbers is None or pixels.shown.ndim == 2:
        return {}
    names = colour_names(naming[0])
    values, first = np.unique(pixels.numbers, return_index=True)
    colours = [
        "#{:02x}{:02x}{:02x}".format(*c) for c in pixels.shown.reshape(-1, 3)[first].tolist()
    ]
    return {str(v): names[c] for v, c in zip(values, colours, strict=True) if c in names}


def _mask_annotations(name: str, path: Path, mask: Mask, options: Data) -> Iterator[Annotation]:
    if not options.split_components:
        yield Annotation(name, path, encode(mask))
        return
    numbers, _ = split_labels(mask)
    for number, code in encode_labels(numbers):
        yield Annotation(f"{name}.{number}", path, code)


def _label_annotations(path: Path, labels: Numbers, options: Data) -> Iterator[Annotation]:
    """Yield segments named by value, and by number among the components of that value."""
    if not options.split_components:
        for value, code in encode_labels(labels):
            yield Annotation(str(value), path, code, value=str(value))
        return
    numbers, values = split_labels(labels)
    counts: Counter[int] = Counter()
    for number, code in encode_labels(numbers):
        value = values[number - 1]
        counts[value] += 1
        yield Annotation(f"{value}.{counts[value]}", path, code, value=str(value))


def _colour_annotations(
    path: Path, shown: Numbers, naming: Sequence[Path], options: Data
) -> Iterator[Annotation]:
    """Yield segments named by colour, as in HTML: `#800000`."""
    colours = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=2)
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    names = colour_names(naming[0]) if naming else {}
    for item in _label_annotations(path, (red << 16) + (green << 8) + blue, options):
        value, _, component = item.segment_id.partition(".")
        colour = f"#{int(value):06x}"
        segment_id = f"{colour}.{component}" if component else colour
        yield Annotation(segment_id, path, item.rle, names.get(colour), value=colour)


def colour_names(file: Path) -> dict[str, str]:
    """Return class names by colour, `#rrggbb`, from a `labelmap.txt` of CVAT.

    Raises RecordError for a file that cannot be read or has other lines.
    """
    names = {}
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, colour = line.split(":")[:2]
            red, green, blue = (int(channel) for channel in colour.split(","))
        except ValueError:
            raise RecordError(
                f"{file}: line {number}: {line!r} is not of the form `name:red,green,blue::`; "
                "correct it"
            ) from None
        names[f"#{red:02x}{green:02x}{blue:02x}"] = name
    return names


def _read_binary_mask(path: Path, image: ImageFacts, options: Data) -> Mask:
    """Return the mask (H, W) of a file with one object."""
    pixels = _resolve_alpha(_read_mask_pixels(path, image, options), path)
    if isinstance(options.soft_masks, float):
        return _apply_threshold(pixels, options.soft_masks, path, options)
    if pixels.lossy:
        _refuse_soft(pixels, path, options)
    visible = pixels.visible
    if pixels.numbers is not None and options.read_masks_by != "colour":
        if options.read_masks_by == "both":
            _refuse_bright_zero(pixels, path)
            _refuse_inverted(pixels, visible, path)
        else:
            visible = pixels.numbers != 0
    if options.soft_masks == "refuse" and not _is_of_one_colour(pixels.shown, visible):
        count = _count_colours(pixels.shown)
        reason = next(filter(None, map(softness_reason, _channels(pixels.shown))), None)
        if reason is not None:
            raise RecordError(f"{path}: the mask is not sharp: {reason}; {_THRESHOLD_REMEDY}")
        raise RecordError(
            f"{path}: the mask has {count} values in addition to black, but a file in a directory "
            f"of masks has one object; if it is a label map, move it to {path.parent}.png; to read "
            f"all values as one object, {_THRESHOLD_REMEDY}"
        )
    return visible


def _is_of_one_colour(shown: Numbers, visible: Mask) -> bool:
    """Return whether all visible pixels have the same colour; faster than counting colours."""
    channels = _channels(shown)
    if not visible.any():
        return True
    first = np.unravel_index(int(visible.argmax()), visible.shape)
    return all(bool(((c == c[first]) | ~visible).all()) for c in channels)


def _count_colours(shown: Numbers) -> int:
    """Return the number of values or colours except black."""
    if shown.ndim == 3:
        colours = shown.astype(np.int64)
        shown = (colours[..., 0] << 16) + (colours[..., 1] << 8) + colours[..., 2]
    return int((np.unique(shown) != 0).sum())


def _apply_threshold(pixels: MaskPixels, threshold: float, path: Path, options: Data) -> Mask:
    """Return the pixels (H, W) above a share of white, in the shown or the stored values.

    Raises RecordError if both readings are used and disagree because of an inverted scale.
    """
    shown = _is_brighter(pixels.shown, threshold, pixels.white)
    numbers = pixels.numbers
    if numbers is None or pixels.shown.ndim == 3 or options.read_masks_by == "colour":
        return shown  # the numbers of a palette are not levels
    stored = _is_brighter(numbers, threshold, pixels.white)
    if options.read_masks_by == "both" and not np.array_equal(stored, shown):
        raise _disagreement_error(path)
    return stored


def _is_brighter(levels: Numbers, threshold: float, white: float) -> Mask:
    """Return the pixels (H, W) above a share of white. levels: (H, W) or (H, W, bands).

    The brightest band of a pixel counts.
    """
    values = levels.astype(np.float64)
    level = values.max(axis=-1) if values.ndim == 3 else values
    return np.asarray(level > threshold * (1.0 if level.max() <= 1 else white))


def _channels(shown: Numbers) -> list[Numbers]:
    return list(np.moveaxis(shown, -1, 0)) if shown.ndim == 3 else [shown]


def _refuse_soft(pixels: MaskPixels, path: Path, options: Data) -> None:
    """Raise RecordError for values that are not labels, unless `soft_masks` is `labels`."""
    if options.soft_masks == "labels":
        return
    remedy = (
        f"save it without smoothing and lossy compression; or {_THRESHOLD_REMEDY}, which makes the "
        "bright part one object, or to 'labels', which reads each value as a label"
    )
    if pixels.lossy:
        raise RecordError(f"{path}: JPEG changes the values of a mask; {remedy}")
    for channel in _channels(pixels.shown if pixels.numbers is None else pixels.numbers):
        if channel.dtype.kind == "f" and (channel != np.rint(channel)).any():
            raise RecordError(
                f"{path}: the mask has values with fractions, as after resizing; {remedy}"
            )
        reason = softness_reason(channel)
        if reason is not None:
            raise RecordError(f"{path}: the mask is not sharp: {reason}; {remedy}")


def _to_integers(numbers: Numbers, path: Path) -> Numbers:
    if numbers.dtype.kind != "f":
        return numbers
    integers = np.rint(numbers).astype(np.int64)
    if (integers != numbers).any():
        raise RecordError(f"{path}: the mask has values with fractions; save integers")
    return integers


def _refuse_bright_zero(pixels: MaskPixels, path: Path) -> None:
    """Raise RecordError for a mask of two colours or levels whose brighter one has number 0."""
    numbers = pixels.numbers
    if numbers is None or pixels.shown is numbers:
        return
    zero = numbers == 0
    if zero.all() or not zero.any() or len(np.unique(numbers)) > 2:
        return
    first, other = (pixels.shown[where][0].astype(float).sum() for where in (zero, ~zero))
    if first > other and pixels.shown.ndim == 2:
        raise _disagreement_error(path)
    if first > other:
        raise RecordError(
            f"{path}: the object is the dark part by the stored numbers, but the bright part by "
            "the colours of the palette; save it as grey with 0 outside of the object, or set "
            "data.read_masks_by to 'colour' or 'number'"
        )


def _refuse_inverted(pixels: MaskPixels, visible: Mask, path: Path) -> None:
    """Raise RecordError for a mask whose stored numbers and colours disagree."""
    numbers = pixels.numbers
    if numbers is None or np.array_equal(numbers != 0, visible):
        return
    if (numbers == 0).any() or numbers.min() == numbers.max():
        raise _disagreement_error(path)


def _disagreement_error(path: Path) -> RecordError:
    return RecordError(
        f"{path}: the stored numbers and the visible colours give different objects (an inverted "
        "scale or palette); save it with black as 0 outside of the object, or set "
        "data.read_masks_by to 'colour' or 'number'"
    )


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


def _read_mask_pixels(path: Path, image: ImageFacts, options: Data) -> MaskPixels:
    """Read a mask file. Raises RecordError unless it has the size of the image."""
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
        return replace(pixels, numbers=numbers, shown=shown.astype(np.uint8))
    return pixels


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
