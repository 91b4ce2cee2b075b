"""Annotations of a record, as run-length codes: one reader for each format."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.data.coco import coco_code, sa1b_codes
from mobile_sam.data.images import RecordError, one_page
from mobile_sam.data.index import UNLABELLED
from mobile_sam.data.masks import Size, encode, encode_polygons
from mobile_sam.data.records import CLASS_NAMES, Record


@dataclass(frozen=True, slots=True)
class Annotation:
    """One segment. rle: its code at the size of the image; category: the name of its class.

    value: what marks it in a label map.
    """

    segment_id: str
    source: Path
    rle: bytes
    category: str | None = None
    crowd: bool = False
    value: str | None = None


def read_annotations(record: Record, size: Size) -> tuple[list[Annotation], list[str]]:
    """All segments of a record, and a sentence for each that is wrong.

    size: (H, W) of the image, which masks must have.
    """
    annotations: list[Annotation] = []
    problems: list[str] = []
    try:
        for item in FORMATS[record.format](record, size):
            if isinstance(item, Annotation):
                annotations.append(item)
            else:
                problems.append(str(item))
    except RecordError as error:
        problems.append(str(error))
    return annotations, problems


Items = Iterator[Annotation | RecordError]


def _mask_files(record: Record, size: Size) -> Items:
    for path in record.sources:
        try:
            pixels = _read_pixels(path, size)
        except RecordError as error:
            yield error
            continue
        mask = np.asarray(pixels.any(axis=-1) if pixels.ndim == 3 else pixels != 0)
        if mask.any():
            yield Annotation(path.stem, path, encode(mask))
        else:
            yield RecordError(f"{path}: the mask is empty; delete it")


def _label_map(record: Record, size: Size) -> Items:
    (path,) = record.sources
    pixels = _read_pixels(path, size)
    if pixels.ndim != 2:
        raise RecordError(
            f"{path}: a label map has one channel, this file {pixels.shape[2]}; "
            "save it as grey or palette image"
        )
    for value in np.unique(pixels).tolist():
        if value:
            name = f"{value:g}"
            yield Annotation(name, path, encode(pixels == value), value=name)


def _yolo(record: Record, size: Size) -> Items:
    (path,) = record.sources
    names = path.with_name(CLASS_NAMES)
    classes = lines_of(names) if names.is_file() else []
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip():
            continue
        try:
            category, polygon = _polygon(line, size)
            rle = encode_polygons([polygon], size)
        except ValueError as error:
            yield RecordError(f"{path}: line {number}: {error}")
        else:
            name = classes[category] if category < len(classes) else str(category)
            yield Annotation(str(number), path, rle, category=name)


def lines_of(path: Path) -> list[str]:
    """Lines of a text file. Raises RecordError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: the text cannot be read ({error})") from error


def _polygon(line: str, size: Size) -> tuple[int, list[float]]:
    category, *numbers = line.split()
    if len(numbers) == 4:
        raise ValueError(
            "this is a box, not a polygon; export segmentation labels, or make masks of the boxes "
            "with segment --boxes"
        )
    places = np.array(numbers, dtype=np.float64)
    if not category.isdecimal() or not np.all((places >= -1e-3) & (places <= 1 + 1e-3)):
        raise ValueError("give a class number and coordinates from 0 to 1, relative to the image")
    places[0::2] *= size[1]
    places[1::2] *= size[0]
    return int(category), places.tolist()


def _coco(record: Record, size: Size) -> Items:
    (path,) = record.sources
    if record.size not in {None, size}:
        raise RecordError(
            f"{record.image_path}: the image is {size[1]}x{size[0]} pixels, but "
            f"{record.size[1]}x{record.size[0]} in {path}; export the annotations again"
        )
    for item in record.objects:
        try:
            rle = coco_code(item.segmentation, size)
        except ValueError as error:
            yield RecordError(f"{path}: annotation {item.segment_id}: {error}")
        else:
            yield Annotation(item.segment_id, path, rle, item.category, item.crowd)


def _sa1b(record: Record, size: Size) -> Items:
    (path,) = record.sources
    for name, code in sa1b_codes(path, size):
        if isinstance(code, bytes):
            yield Annotation(name, path, code)
        else:
            yield RecordError(f"{path}: annotation {name}: {code}")


def _nothing(record: Record, size: Size) -> Items:
    return iter(())


def _read_pixels(path: Path, size: Size) -> NDArray[np.generic]:
    try:
        if path.suffix.lower() == ".npy":
            pixels = _array(path)
        else:
            with Image.open(path) as image:
                one_page(image, path)
                pixels = np.asarray(image)
    except RecordError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordError(f"{path}: the mask cannot be read ({error})") from error
    if pixels.shape[:2] != size or pixels.ndim > 3:
        raise RecordError(
            f"{path}: the mask is {_size(pixels.shape)} pixels, its image {_size(size)}; "
            "export the masks at the size of the image"
        )
    return pixels


def _array(path: Path) -> NDArray[np.generic]:
    """A .npy file, mapped: what it says of its size is not believed before the file has it."""
    pixels = np.lib.format.open_memmap(path, mode="r")
    if pixels.dtype.kind not in "biuf":
        raise ValueError(f"it holds {pixels.dtype}; save whole numbers")
    return pixels


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in reversed(shape[:2]))


# A new format is a reader here, and its recognition in `records`.
FORMATS: dict[str, Callable[[Record, Size], Items]] = {
    "mask_directory": _mask_files,
    "bbbc038": _mask_files,
    "label_map": _label_map,
    "yolo": _yolo,
    "coco": _coco,
    "sa1b": _sa1b,
    UNLABELLED: _nothing,
}
