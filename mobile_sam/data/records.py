"""Records: images with their annotations as they lie on disk.

Formats are recognised by what lies in the mask directory:

- `mask_directory`: `<id>/*.png`, one file for each segment, set where it is not 0.
- `label_map`: `<id>.png` (8 or 16 bit), `.tif` or `.npy`; each value but 0 is a segment. A binary
  mask is a label map with one value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mobile_sam.config import UserError
from mobile_sam.data.masks import Mask

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
MASK_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".npy"})


class RecordError(UserError):
    """Something is wrong with one file; the message names it."""


@dataclass(frozen=True)
class Record:
    """One image and its annotation files: one for each segment, or one for all of them."""

    image_id: str
    image_path: Path
    format: str
    mask_paths: tuple[Path, ...]


@dataclass(frozen=True)
class RecordSegment:
    """One segment of a record. mask: (H, W) of the image."""

    segment_id: str
    mask_path: Path
    mask: Mask


def find_records(image_dir: Path, mask_dir: Path) -> tuple[list[Record], list[str]]:
    """Records of all images `<id>.<suffix>`, in order of their ids.

    Returns the records and a sentence for each image without masks or masks without image.
    """
    images: dict[str, Path] = {}
    problems = []
    for path in sorted(image_dir.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in images:
            problems.append(f"{path}: {images[path.stem].name} has the same name; rename one")
        images[path.stem] = path
    annotations, found = _annotations(mask_dir)
    problems += found
    records = []
    for image_id, path in images.items():
        if image_id in annotations:
            format_, masks = annotations[image_id]
            records.append(Record(image_id, path, format_, masks))
        else:
            problems.append(
                f"{path}: the image has no masks; put them into {mask_dir / image_id}/ "
                f"or {mask_dir / image_id}.png"
            )
    problems += [
        f"{masks[0].parent if format_ == 'mask_directory' else masks[0]}: the masks have no image; "
        f"put {image_id}.png or .jpg into {image_dir}/"
        for image_id, (format_, masks) in annotations.items()
        if image_id not in images
    ]
    if not images:
        problems.append(f"{image_dir}: there is no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return records, problems


def _annotations(mask_dir: Path) -> tuple[dict[str, tuple[str, tuple[Path, ...]]], list[str]]:
    """Format and files by image id, and a sentence for each image annotated twice."""
    found: dict[str, tuple[str, tuple[Path, ...]]] = {}
    problems = []
    for path in sorted(mask_dir.iterdir()):
        if path.is_dir():
            files = tuple(sorted(p for p in path.iterdir() if p.suffix.lower() in MASK_SUFFIXES))
            image_id, entry = path.name, ("mask_directory", files)
        elif path.suffix.lower() in MASK_SUFFIXES:
            image_id, entry = path.stem, ("label_map", (path,))
        else:
            continue
        if image_id in found:
            problems.append(
                f"{path}: {found[image_id][1][0]} has masks of the same image; keep one"
            )
        elif entry[1]:
            found[image_id] = entry
    return found, problems


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3) in 0..255, turned upright by their EXIF orientation.

    Raises RecordError for a file that cannot be read whole, or has several pages.
    """
    try:
        with Image.open(path) as image:
            _one_page(image, path)
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except RecordError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordError(f"{path}: the image cannot be read ({error})") from error


def read_segments(
    record: Record, image_size: tuple[int, int]
) -> tuple[list[RecordSegment], list[str]]:
    """All segments of a record, and a sentence for each file that is wrong.

    image_size: (H, W) that masks must have.
    """
    segments: list[RecordSegment] = []
    problems: list[str] = []
    for path in record.mask_paths:
        try:
            segments += FORMATS[record.format](path, image_size)
        except RecordError as error:
            problems.append(str(error))
    return segments, problems


def _one_segment(path: Path, image_size: tuple[int, int]) -> list[RecordSegment]:
    pixels = _read_annotation(path, image_size)
    mask = np.asarray(pixels.any(axis=-1) if pixels.ndim == 3 else pixels != 0)
    if not mask.any():
        raise RecordError(f"{path}: the mask is empty; delete it")
    return [RecordSegment(path.stem, path, mask)]


def _label_map(path: Path, image_size: tuple[int, int]) -> list[RecordSegment]:
    pixels = _read_annotation(path, image_size)
    if pixels.ndim != 2:
        raise RecordError(
            f"{path}: a label map has one channel, this file {pixels.shape[2]}; "
            "save it as grey or palette image"
        )
    labels = [label for label in np.unique(pixels).tolist() if label]
    if not labels:
        raise RecordError(f"{path}: the label map is empty; delete it and its image")
    return [RecordSegment(f"{label:g}", path, pixels == label) for label in labels]


def _read_annotation(path: Path, image_size: tuple[int, int]) -> NDArray[np.generic]:
    try:
        if path.suffix.lower() == ".npy":
            pixels = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as image:
                _one_page(image, path)
                pixels = np.asarray(image)
    except RecordError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordError(f"{path}: the mask cannot be read ({error})") from error
    if pixels.shape[:2] != image_size or pixels.ndim > 3:
        raise RecordError(
            f"{path}: the mask is {_size(pixels.shape)} pixels, its image {_size(image_size)}; "
            "export the masks at the size of the image"
        )
    return pixels


def _one_page(image: Image.Image, path: Path) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise RecordError(f"{path}: the file has several pages; save each page as a file")


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in reversed(shape[:2]))


FORMATS: dict[str, Callable[[Path, tuple[int, int]], list[RecordSegment]]] = {
    "mask_directory": _one_segment,
    "label_map": _label_map,
}
