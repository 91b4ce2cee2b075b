"""Records: images with their annotations as they lie on disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mobile_sam.config import UserError
from mobile_sam.data.masks import Mask

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
MASK_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Record:
    """One image and the files of its masks, one for each segment."""

    image_id: str
    image_path: Path
    mask_paths: tuple[Path, ...]


class RecordError(UserError):
    """Something is wrong with one file; the message names it."""


def find_records(image_dir: Path, mask_dir: Path) -> tuple[list[Record], list[str]]:
    """Records of images `<id>.<suffix>` with masks `<id>/*.png`, in order of their ids.

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
    records = []
    for image_id, path in images.items():
        directory = mask_dir / image_id
        masks = sorted(_mask_files(directory))
        if masks:
            records.append(Record(image_id, path, tuple(masks)))
        else:
            problems.append(f"{path}: the image has no masks; put them into {directory}/")
    problems += [
        f"{path}: the masks have no image; put {path.name}.png or .jpg into {image_dir}/"
        for path in sorted(mask_dir.iterdir())
        if path.is_dir() and path.name not in images
    ]
    if not images:
        problems.append(f"{image_dir}: there is no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return records, problems


def _mask_files(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from (p for p in directory.iterdir() if p.suffix.lower() in MASK_SUFFIXES)


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3) in 0..255, turned upright by their EXIF orientation.

    Raises RecordError for a file that cannot be read whole.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordError(f"{path}: the image cannot be read ({error})") from error


def read_mask(path: Path, image_size: tuple[int, int]) -> Mask:
    """A mask (H, W): every pixel that is not 0.

    image_size: (H, W) the mask must have. Raises RecordError for a mask that cannot be read,
    has another size, or is empty.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordError(f"{path}: the mask cannot be read ({error})") from error
    mask = np.asarray(pixels.any(axis=-1) if pixels.ndim == 3 else pixels != 0)
    if mask.shape != image_size:
        raise RecordError(
            f"{path}: the mask is {_size(mask.shape)} pixels, its image {_size(image_size)}; "
            "export the masks at the size of the image"
        )
    if not mask.any():
        raise RecordError(f"{path}: the mask is empty; delete it")
    return mask


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
