"""Masks as pictures: a file for each object, or one label map for each image.

A file for each object is read by its colour, as viewers show it: what is not black is the object. A
label map is read by the number that is stored, or by colour where only colours are stored. Where
both readings are possible and disagree, the file is refused.
"""

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
from mobile_sam.data.images import (
    ImageFacts,
    RecordError,
    apply_orientation,
    check_megapixels,
    check_single_page,
    is_deep_png,
    open_image,
)
from mobile_sam.data.masks import Mask, encode, encode_labels, split_labels
from mobile_sam.data.record import Record
from mobile_sam.data.tiff import TIFF_ERRORS, SeveralPagesError, read_tiff

MASK_SUFFIXES = frozenset(
    {".png", ".bmp", ".tif", ".tiff", ".npy", ".gif", ".webp", ".jpg", ".jpeg"}
)
Numbers = NDArray[Any]  # whole numbers, booleans, or real numbers of a mask
_LOSSY = frozenset({"JPEG", "MPO", "JPEG2000"})
_THRESHOLD_REMEDY = "set data.soft_masks to a threshold such as 0.5"


@dataclass(frozen=True)
class MaskPixels:
    """A mask file in both readings.

    numbers: (H, W) as stored; None where only colours are. shown: (H, W) of grey levels, or
    (H, W, 3) of colours, as viewers show them. alpha: (H, W), None where it is constant.
    full: the level of white. lossy: whether the format changes values.
    """

    numbers: Numbers | None
    shown: Numbers
    alpha: Numbers | None = None
    full: float = 255.0
    lossy: bool = False

    @property
    def visible(self) -> Mask:
        """Return the pixels (H, W) that are not black."""
        return np.asarray(self.shown.any(axis=-1) if self.shown.ndim == 3 else self.shown != 0)


def read_mask_files(record: Record, image: ImageFacts, options: Data) -> Items:
    """Read files with one object each; a file without an object is an error beside others."""
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
                f"{path}: the mask is empty; delete it (an image without objects has one empty "
                "mask, or an empty directory)"
            )


def read_label_map(record: Record, image: ImageFacts, options: Data) -> Items:
    """Read a file in which each value but 0, or each colour but black, is a segment."""
    path, *naming = record.sources
    pixels = _resolve_alpha(_read_mask_pixels(path, image, options), path, options)
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
    """Names of the values of a palette, by their colours; none without a file of names."""
    if not naming or pixels.numbers is None or pixels.shown.ndim == 2:
        return {}
    names = colour_names(naming[0])
    values, places = np.unique(pixels.numbers, return_index=True)
    colours = pixels.shown.reshape(-1, 3)[places].tolist()
    found = {str(v): "#{:02x}{:02x}{:02x}".format(*c) for v, c in zip(values, colours, strict=True)}
    return {value: names[colour] for value, colour in found.items() if colour in names}


def _mask_annotations(name: str, path: Path, mask: Mask, options: Data) -> Iterator[Annotation]:
    if not options.split_components:
        yield Annotation(name, path, encode(mask))
        return
    numbers, _ = split_labels(mask)
    for number, code in encode_labels(numbers):
        yield Annotation(f"{name}.{number}", path, code)


def _label_annotations(path: Path, labels: Numbers, options: Data) -> Iterator[Annotation]:
    """Segments named by their values, and by their place among the components of one value."""
    if not options.split_components:
        for value, code in encode_labels(labels):
            yield Annotation(str(value), path, code, value=str(value))
        return
    numbers, values = split_labels(labels)
    before: dict[int, int] = {}
    for number, code in encode_labels(numbers):
        value = values[number - 1]
        before[value] = before.get(value, 0) + 1
        yield Annotation(f"{value}.{before[value]}", path, code, value=str(value))


def _colour_annotations(
    path: Path, shown: Numbers, naming: Sequence[Path], options: Data
) -> Iterator[Annotation]:
    """Segments named by their colours, as web pages write them: `#800000`."""
    colours = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=2)
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    names = colour_names(naming[0]) if naming else {}
    for item in _label_annotations(path, (red << 16) + (green << 8) + blue, options):
        value, _, part = item.segment_id.partition(".")
        name = f"#{int(value):06x}"
        yield Annotation(
            f"{name}.{part}" if part else name, path, item.rle, names.get(name), value=name
        )


def colour_names(file: Path) -> dict[str, str]:
    """Return the names of colours, `#rrggbb`, in a `labelmap.txt`, as CVAT writes it.

    Raises RecordError for a file with other lines.
    """
    names = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, colour = line.split(":")[:2]
            red, green, blue = (int(part) for part in colour.split(","))
        except ValueError:
            raise RecordError(
                f"{file}: line {number}: {line!r} is no `name:red,green,blue::`"
            ) from None
        names[f"#{red:02x}{green:02x}{blue:02x}"] = name
    return names


def _read_binary_mask(path: Path, image: ImageFacts, options: Data) -> Mask:
    """The mask (H, W) of a file with one object."""
    pixels = _resolve_alpha(_read_mask_pixels(path, image, options), path, options)
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
        why = next(filter(None, map(softness_reason, _channels(pixels.shown))), None)
        if why is not None:
            raise RecordError(f"{path}: the mask is not sharp: {why}; {_THRESHOLD_REMEDY}")
        raise RecordError(
            f"{path}: {count} values beside black, where one file has one object; move a label "
            f"map to {path.parent}.png, or {_THRESHOLD_REMEDY} to read all of them as one object"
        )
    return visible


def _is_of_one_colour(shown: Numbers, visible: Mask) -> bool:
    """Return whether all pixels that are not black share a colour; faster than counting."""
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
    """Return the pixels (H, W) above a share of white, in the displayed or the stored values.

    Raises RecordError where both readings count and an inverted scale makes them disagree.
    """
    seen = _is_brighter(pixels.shown, threshold, pixels.full)
    numbers = pixels.numbers
    if numbers is None or pixels.shown.ndim == 3 or options.read_masks_by == "colour":
        return seen  # numbers of a palette are no levels
    stored = _is_brighter(numbers, threshold, pixels.full)
    if options.read_masks_by == "both" and not np.array_equal(stored, seen):
        raise _disagreement_error(path)
    return stored


def _is_brighter(levels: Numbers, threshold: float, full: float) -> Mask:
    """Levels (H, W), or (H, W, bands) of which the brightest counts, above a share of white."""
    values = levels.astype(np.float64)
    level = values.max(axis=-1) if values.ndim == 3 else values
    return np.asarray(level > threshold * (1.0 if level.max() <= 1 else full))


def _channels(shown: Numbers) -> list[Numbers]:
    return list(np.moveaxis(shown, -1, 0)) if shown.ndim == 3 else [shown]


def _refuse_soft(pixels: MaskPixels, path: Path, options: Data) -> None:
    """Raise RecordError for values that nobody drew, unless they are labels all the same."""
    if options.soft_masks == "labels":
        return
    remedy = (
        f"save it again without smoothing or lossy compression; or {_THRESHOLD_REMEDY}, which "
        "makes one object of the bright part, or to 'labels', which takes each value as it is"
    )
    if pixels.lossy:
        raise RecordError(f"{path}: JPEG changes the values of a mask; {remedy}")
    for channel in _channels(pixels.shown if pixels.numbers is None else pixels.numbers):
        if channel.dtype.kind == "f" and (channel != np.rint(channel)).any():
            raise RecordError(
                f"{path}: the mask has values with fractions, as after resizing; {remedy}"
            )
        why = softness_reason(channel)
        if why is not None:
            raise RecordError(f"{path}: the mask is not sharp: {why}; {remedy}")


def _to_integers(numbers: Numbers, path: Path) -> Numbers:
    if numbers.dtype.kind != "f":
        return numbers
    whole = np.rint(numbers).astype(np.int64)
    if (whole != numbers).any():
        raise RecordError(f"{path}: the mask has values with fractions; save whole numbers")
    return whole


def _refuse_bright_zero(pixels: MaskPixels, path: Path) -> None:
    """Raise RecordError for two colours or levels, of which the brighter one has number 0."""
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
            f"{path}: by the stored numbers the dark part is the object, and by the colours of "
            "the palette the bright part; save it as grey with 0 outside of the object, or set "
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
        f"{path}: by the stored numbers another part is the object than by the colours that are "
        "seen (an inverted scale or palette); save it with black as 0 outside of the object, or "
        "set data.read_masks_by to 'colour' or 'number'"
    )


def _resolve_alpha(pixels: MaskPixels, path: Path, options: Data) -> MaskPixels:
    """The mask of a file whose transparency varies: there where the colour does not.

    Raises RecordError where both vary and disagree.
    """
    if pixels.alpha is None:
        return pixels
    opaque = pixels.alpha != 0
    if pixels.numbers is not None and np.array_equal(opaque, pixels.numbers != 0):
        seen = opaque[..., None] if pixels.shown.ndim == 3 else opaque
        return replace(pixels, shown=pixels.shown * seen, alpha=None)
    flat = pixels.shown.reshape(pixels.alpha.size, -1)
    if (flat == flat[0]).all():
        return MaskPixels(pixels.alpha, pixels.alpha, lossy=pixels.lossy)
    if not np.array_equal(opaque, pixels.visible):
        raise RecordError(
            f"{path}: by its colours another part is the object than by its transparency; save "
            "it without transparency"
        )
    return MaskPixels(pixels.numbers, pixels.shown, None, pixels.full, pixels.lossy)


def _read_mask_pixels(path: Path, image: ImageFacts, options: Data) -> MaskPixels:
    """Both readings of a file. Raises RecordError unless its size is that of the image."""
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
            f"{path}: the mask has values that are not finite; save whole numbers, with 0 outside "
            "of objects"
        )
    if pixels.numbers is not None and pixels.numbers.dtype == np.bool_:
        numbers, shown = pixels.numbers.astype(np.uint8), pixels.shown.astype(np.uint8) * 255
        return replace(pixels, numbers=numbers, shown=shown.astype(np.uint8))
    return pixels


def _read_npy(path: Path) -> MaskPixels:
    """A .npy file, mapped: what it says of its size is not believed before the file has it."""
    try:
        pixels: Numbers = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        if "Python objects" not in str(error):
            raise
        raise RecordError(
            f"{path}: the file holds Python objects, as cellpose's _seg.npy does, and no mask; "
            "save the masks as PNG or TIFF (cellpose: save_masks)"
        ) from None
    if pixels.dtype.kind not in "biuf":
        raise RecordError(f"{path}: the mask holds {pixels.dtype}; save whole numbers")
    if pixels.ndim == 3 and 1 in {pixels.shape[0], pixels.shape[2]}:
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels[..., 0]
    if pixels.ndim != 2:
        raise RecordError(
            f"{path}: an array of shape {pixels.shape}, and a label map has (height, width); save "
            "a stack as one file for each object"
        )
    return MaskPixels(pixels, pixels, full=_white_level(pixels))


def _white_level(pixels: Numbers) -> float:
    deep = pixels.dtype.kind in "iu" and pixels.dtype.itemsize == 2
    return float(np.iinfo(pixels.dtype).max) if deep else 255.0


def _read_picture(path: Path, options: Data) -> MaskPixels:
    if path.suffix.lower() in {".tif", ".tiff"}:
        try:
            return _read_with_tifffile(path, options)
        except SeveralPagesError as error:
            raise RecordError(
                f"{path}: the file has several pages ({error}); save each page as a file"
            ) from None
        except RecordError:
            raise
        except TIFF_ERRORS:  # a compression that Pillow knows better, or damage that it names
            pass
    with open_image(path, path, options) as image:
        check_single_page(image, path)
        if image.format == "PNG" and image.mode in {"RGB", "RGBA", "LA"} and is_deep_png(path):
            raise RecordError(f"{path}: a mask of 16 bits has one band; save it as grey or RGB8")
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        pixels = _read_with_pillow(image)
        if image.format == "TIFF" and orientation in range(2, 9):  # Pillow has turned it already
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
        return MaskPixels(
            ~pixels, pixels, full=_white_level(pixels), lossy=lossy
        )  # Pillow inverts it
    if pixels.ndim == 2:
        return MaskPixels(pixels, pixels, full=_white_level(pixels), lossy=lossy)
    if image.mode not in {"RGB", "RGBA"}:
        pixels = np.asarray(image.convert("RGB"))
    alpha = _varying_alpha(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return _from_colours(pixels[..., :3], alpha, lossy)


def _refuse_orientation(pixels: Numbers, orientation: int, path: Path) -> None:
    """Raise RecordError for a mask that its orientation turns: some viewers turn it, others not."""
    if not np.array_equal(apply_orientation(pixels, orientation), pixels):
        raise RecordError(
            f"{path}: its orientation tag ({orientation}) turns the mask; save it upright without "
            "the tag, or set data.exif_orientation to 'ignore' to read it as stored"
        )


def _from_colours(colours: Numbers, alpha: Numbers | None, lossy: bool) -> MaskPixels:
    """Colours, or grey levels where red, green and blue are equal everywhere."""
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
        raise SeveralPagesError(f"{pixels.shape[2]} pages")
    if pixels.dtype.kind not in "biuf":
        raise RecordError(f"{path}: the mask holds {pixels.dtype}; save whole numbers")
    if pixels.ndim == 2:
        return MaskPixels(pixels, tiff.shown(), None, _white_level(pixels), tiff.lossy)
    alpha = _varying_alpha(pixels[..., -1]) if tiff.alpha else None
    colours = pixels[..., :-1] if tiff.alpha else pixels
    if colours.shape[2] == 1:
        return MaskPixels(colours[..., 0], colours[..., 0], alpha, _white_level(pixels), tiff.lossy)
    if colours.shape[2] != 3 or pixels.dtype != np.uint8:
        raise RecordError(
            f"{path}: {pixels.shape[2]} bands of {pixels.dtype}, and a mask has one band, or "
            "three of uint8; save it as grey or RGB"
        )
    return _from_colours(colours, alpha, tiff.lossy)
