"""Images as they lie on disk, turned into upright RGB pixels."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from mobile_sam.config import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
_DEEP_GREY = frozenset({"I;16", "I;16L", "I;16B", "I", "F"})


class RecordError(UserError):
    """Something is wrong with one file; the message names it."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3) in 0..255, turned upright by their EXIF orientation.

    Transparency is dropped. Grey images of more than 8 bits are stretched from their own darkest
    to their own brightest pixel, because cameras seldom fill 16 bits. Of colour images of 16 bits
    the upper 8 are read. Raises RecordError for a file that cannot be read whole, or has several
    pages.
    """
    with _opened(path, path) as image:
        upright = ImageOps.exif_transpose(image)
        if image.mode in _DEEP_GREY:
            grey = _stretched(np.asarray(upright, dtype=np.float64), path)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.asarray(upright.convert("RGB"))


def check_image(path: Path) -> tuple[str, tuple[int, int]]:
    """Digest of the file's bytes and size (H, W) of the upright image, read whole.

    Of a JPEG every coefficient is read, but grey pixels are made at an eighth of the size: that
    finds a truncated file in a fraction of the time. Raises RecordError as `read_image` does.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: the image cannot be read ({error})") from error
    with _opened(io.BytesIO(content), path) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        image.draft("L", (width // 8, height // 8))
        image.load()
        if image.mode in _DEEP_GREY:
            _stretched(np.asarray(image, dtype=np.float64), path)
    digest = hashlib.sha256(content).hexdigest()[:32]
    return digest, (width, height) if turned else (height, width)


@contextmanager
def _opened(file: Path | io.BytesIO, path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            one_page(image, path)
            yield image
    except RecordError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordError(f"{path}: the image cannot be read ({error})") from error


def _stretched(grey: NDArray[np.float64], path: Path) -> NDArray[np.uint8]:
    low, high = grey.min(), grey.max()
    if not np.isfinite(high - low):
        raise RecordError(f"{path}: the image has pixels that are not finite; save it without them")
    return np.asarray((grey - low) * (255 / max(high - low, 1e-12)) + 0.5).astype(np.uint8)


def one_page(image: Image.Image, path: Path) -> None:
    """Raise RecordError for a file of several pages or frames."""
    if getattr(image, "n_frames", 1) > 1:
        raise RecordError(f"{path}: the file has several pages; save each page as a file")
