"""Masks as image files: a file for each object, or one label map for each image.

A file for each object is read by its colour, as viewers show it: pixels that are not black are the
object. A label map is read by the stored numbers, or by colour if only colours are stored. If both
readings are possible and disagree, the file is refused. So are masks that were smoothed, resized or
compressed with loss.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items
from mobile_sam.data.formats.mask_pixels import MaskPixels, Numbers, read_mask_pixels
from mobile_sam.data.formats.text_files import read_lines
from mobile_sam.data.images import ImageFacts, RecordError
from mobile_sam.data.masks import Mask, encode, encode_labels, split_labels
from mobile_sam.data.record import Record

MASK_SUFFIXES = frozenset(
    {".png", ".bmp", ".tif", ".tiff", ".npy", ".gif", ".webp", ".jpg", ".jpeg"}
)
_THRESHOLD_REMEDY = "set data.soft_masks to a threshold such as 0.5"
# Share of soft edges: 0.36 or more in resized and compressed discs and label maps, 0.06 or less in
# real label maps, as measured.
_SOFT_SHARE = 0.35
_MIN_EDGES = 24
_MAX_RAMP = 3  # pixels of a soft edge
_NEAR = 16  # levels by which JPEG changes a value


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
    pixels = read_mask_pixels(path, image, options)
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
    pixels = read_mask_pixels(path, image, options)
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
        reason = next(filter(None, map(_softness_reason, _channels(pixels.shown))), None)
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
        reason = _softness_reason(channel)
        if reason is not None:
            raise RecordError(f"{path}: the mask is not sharp: {reason}; {remedy}")


def _to_integers(numbers: Numbers, path: Path) -> Numbers:
    if numbers.dtype.kind != "f":
        return numbers
    with np.errstate(invalid="ignore"):  # numbers beyond 64 bits differ from what is cast
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


def _softness_reason(channel: Numbers) -> str | None:
    """Return the reason why the values of a channel are not labels; None if they may be."""
    values = np.unique(channel)
    if len(values) <= 2:
        return None
    soft, edges = _count_ramps(channel)
    if edges >= _MIN_EDGES and soft > _SOFT_SHARE * edges:
        return f"its edges are smooth ({len(values)} values, many of them between two others)"
    if values[0] >= 0 and values[-1] <= 255 and _is_like_jpeg(channel, values):
        return f"its values scatter as after lossy compression ({len(values)} values)"
    return None


def _count_ramps(channel: Numbers) -> tuple[int, int]:
    """Count short runs whose value lies between those of both neighbours, and all changes.

    Runs follow rows and columns. In a mask with hard edges, few values lie between others.
    """
    soft = edges = 0
    for lines in (channel, channel.T):
        width = lines.shape[1]
        flat = np.ascontiguousarray(lines).ravel()
        begins = np.ones(flat.size, dtype=bool)
        begins[1:] = flat[1:] != flat[:-1]
        begins[::width] = True
        starts = np.flatnonzero(begins)
        value, line = flat[starts], starts // width
        length = np.diff(np.r_[starts, flat.size])
        same_line = line[1:] == line[:-1]
        edges += int(same_line.sum())
        before, here, after = value[:-2], value[1:-1], value[2:]
        between = ((before < here) & (here < after)) | ((before > here) & (here > after))
        within = same_line[1:] & same_line[:-1]
        soft += int((within & between & (length[1:-1] <= _MAX_RAMP)).sum())
    return soft, edges


def _is_like_jpeg(channel: Numbers, values: Numbers) -> bool:
    """Return whether values scatter: many isolated pixels, or values close to the extremes."""
    values = values.astype(np.int64)
    top = values[values >= values[-1] - _NEAR // 2]
    bottom = values[values <= _NEAR // 2]
    if values[-1] >= 128 and len(top) > 1 and len(top) + len(bottom) == len(values):
        return True
    if len(values) < 8:
        return False
    padded = np.pad(channel.astype(np.int64), 1, constant_values=-(10**6))
    centre = padded[1:-1, 1:-1]
    steps = np.stack(
        [
            np.abs(centre - other)
            for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        ]
    ).min(axis=0)
    single = (steps > 0) & (centre != 0)
    near = single & (steps <= _NEAR)
    return bool(single.sum() >= 2 * len(values) and 2 * near.sum() > single.sum())
