"""Image files, read as upright RGB pixels."""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from mobile_sam.config.sections import ImageOptions, Percentiles
from mobile_sam.data.jpeg import is_jpeg, without_pixels
from mobile_sam.data.ome_zarr import (
    SUFFIX,
    ZARR_ERRORS,
    OmeZarr,
    OmeZarrError,
    is_ome_zarr,
    open_ome_zarr,
)
from mobile_sam.data.pyramid import Pyramid
from mobile_sam.data.tiff import TIFF_ERRORS, SeveralPagesError, read_tiff
from mobile_sam.system.atomic_files import file_digest
from mobile_sam.system.errors import UserError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".ppm", ".pgm"}
    | {SUFFIX}
)
_DEEP_GREY = frozenset({"I;16", "I;16L", "I;16B", "I", "F"})
_COLOURS = frozenset({"RGB", "RGBA", "LA"})
_MULTI_PICTURE = "MPO"  # a JPEG with previews or a depth map after the photograph, as from phones
Pixels = NDArray[np.generic]
DEFAULT_OPTIONS = ImageOptions()

# Rotation or flip that turns stored pixels upright, by EXIF orientation (EXIF 2.32, tag 274).
_ORIENTATIONS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
_INVERSE_ORIENTATION = {6: 8, 8: 6}  # all other orientations are their own inverse
NO_HASH = 0  # perceptual hash of an image without one
_HASH_SIZE = 256  # pixels of the longest side


class RecordError(UserError):
    """Problem with one file; the message names the file."""


@dataclass(frozen=True)
class ImageFacts:
    """Facts about an image file that was read completely.

    digest: of the file's bytes and of the options that change its pixels.
    size: (H, W) of the upright image; stored_size: (H, W) before the EXIF orientation is applied.
    orientation: EXIF orientation; 1 if it is absent or `exif_orientation` is `ignore`.
    """

    digest: str
    size: tuple[int, int]
    stored_size: tuple[int, int]
    orientation: int


@dataclass(frozen=True)
class _StoredPixels:
    """Pixels (H, W) or (H, W, bands) as stored. nodata: value of pixels without data."""

    pixels: Pixels
    orientation: int
    nodata: float | None = None


def read_image(path: Path, options: ImageOptions = DEFAULT_OPTIONS) -> NDArray[np.uint8]:
    """Return RGB pixels (H, W, 3) in 0..255, turned upright by the EXIF orientation.

    Transparency is dropped. For images with more than 8 bits, `options.intensity` sets the values
    that become black and white. Raises RecordError for a file that cannot be read completely, has
    several pages, or has bands that are neither grey nor RGB without a choice in `options.bands`.
    """
    stored = _read_stored(path, path, options)
    return apply_orientation(_to_rgb8(stored, path, options), stored.orientation)


def read_unoriented(path: Path, options: ImageOptions = DEFAULT_OPTIONS) -> NDArray[np.uint8]:
    """Return the pixels as `read_image` does, without applying the EXIF orientation."""
    return _to_rgb8(_read_stored(path, path, options), path, options)


def part_to_rgb8(
    pixels: Pixels, path: Path, options: ImageOptions, image: Pyramid
) -> NDArray[np.uint8]:
    """Return RGB pixels (H, W, 3) of a part (H, W) or (H, W, bands) of an upright image."""
    return _to_rgb8(_stored_part(pixels, path, options, image), path, options)


def _stored_part(
    pixels: Pixels, path: Path, options: ImageOptions, image: Pyramid
) -> "_StoredPixels":
    selected = _select_bands(pixels, path, options, image.has_alpha, image.is_colour)
    return _StoredPixels(selected, orientation=1, nodata=image.nodata)


def open_zarr_image(path: Path) -> OmeZarr:
    """Open the image of an OME-Zarr directory. Raises RecordError for one that cannot be read."""
    try:
        return open_ome_zarr(path)
    except OmeZarrError as error:
        raise RecordError(f"{path}: {error}") from None
    except ZARR_ERRORS as error:
        raise RecordError(f"{path}: the OME-Zarr cannot be read ({error})") from error


def apply_orientation(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels (H, W, ...) upright. orientation: EXIF's, from 1 to 8."""
    return np.ascontiguousarray(_ORIENTATIONS[orientation](pixels))


def check_image(path: Path, options: ImageOptions = DEFAULT_OPTIONS) -> ImageFacts:
    """Check that an image can be read completely, and return its digest and size.

    A JPEG is checked without its compressed pixels, which takes a fifth of the time. Raises
    RecordError as `read_image` does.
    """
    content = _read_bytes(path)
    stored_size, orientation = _check_content(content, path, options)
    size = stored_size[::-1] if orientation >= 5 else stored_size
    return ImageFacts(_digest(content, options), size, stored_size, orientation)


def read_verified(path: Path, options: ImageOptions, digest: str) -> NDArray[np.uint8]:
    """Return the pixels as `read_image` does, after checking the digest of the bytes.

    digest: that of `ImageFacts`. Raises RecordError for a file with another digest.
    """
    content = _read_verified_bytes(path, options, digest)
    stored = _read_stored(io.BytesIO(content), path, options)
    return apply_orientation(_to_rgb8(stored, path, options), stored.orientation)


def _read_verified_bytes(path: Path, options: ImageOptions, digest: str) -> bytes:
    content = _read_bytes(path)
    if _digest(content, options) != digest:
        raise changed_error(path)
    return content


def changed_error(path: Path) -> RecordError:
    """Return the error for an image with other bytes or pixels than when it was indexed."""
    return RecordError(
        f"{path}: the image has changed since it was indexed; restore the indexed file, or "
        "`touch` this one, and run the same command again (without Snakemake: run `index`, "
        "then `extract`)"
    )


def _read_bytes(path: Path) -> bytes:
    try:
        content = file_digest(path).encode() if is_ome_zarr(path) else path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: the image cannot be read ({error.strerror})") from error
    if not content:
        raise RecordError(f"{path}: the image file is empty (0 bytes); copy it again")
    return content


def hash_verified(path: Path, options: ImageOptions, digest: str) -> int:
    """Return `perceptual_hash` of the upright image, after checking the digest of the bytes.

    A JPEG is decoded at an eighth of its size. digest: that of `ImageFacts`. Raises RecordError as
    `read_verified` does.
    """
    content = _read_verified_bytes(path, options, digest)
    if _is_plain_jpeg(content, options):
        _, orientation, grey = _decode_eighth(content, path, options)
    else:
        stored = _read_stored(io.BytesIO(content), path, options)
        grey = np.asarray(Image.fromarray(_to_rgb8(stored, path, options)).convert("L"))
        orientation = stored.orientation
    return perceptual_hash(apply_orientation(grey, orientation))


def perceptual_hash(grey: NDArray[np.uint8]) -> int:
    """Return a hash of 64 bits that is stable when an image (H, W) is scaled or compressed.

    Its bits are the signs of low frequencies (pHash), computed by the library ImageHash. The value
    `NO_HASH` means that there is no hash.
    """
    import imagehash  # slow to import; only near-duplicates need it

    small = Image.fromarray(grey)
    small.thumbnail((_HASH_SIZE, _HASH_SIZE), reducing_gap=2.0)
    # Its hexadecimal text takes longer than the hash.
    return int.from_bytes(np.packbits(imagehash.phash(small).hash).tobytes())


_CHANGE_PIXELS = {"bands", "intensity", "exif_orientation"}


def _digest(content: bytes, options: ImageOptions) -> str:
    changes = options.model_dump_json(exclude_defaults=True, include=_CHANGE_PIXELS)
    digest = hashlib.sha256(content)
    digest.update(b"" if changes == "{}" else changes.encode())
    return digest.hexdigest()[:32]


def _is_plain_jpeg(content: bytes, options: ImageOptions) -> bool:
    """Return whether an image is a JPEG of which all bands are used."""
    return is_jpeg(content) and options.bands is None


def _check_content(
    content: bytes, path: Path, options: ImageOptions
) -> tuple[tuple[int, int], int]:
    """Check that an image can be read completely; return its stored size (H, W) and orientation."""
    if _is_plain_jpeg(content, options):
        markers = without_pixels(content)
        if markers is not None:
            with suppress(RecordError):  # decoding everything finds the fault again
                return _decode_eighth(markers, path, options)[:2]
        return _decode_eighth(content, path, options)[:2]
    stored = _read_stored(io.BytesIO(content), path, options)
    _to_rgb8(stored, path, options)
    return (stored.pixels.shape[0], stored.pixels.shape[1]), stored.orientation


def _decode_eighth(
    content: bytes, path: Path, options: ImageOptions
) -> tuple[tuple[int, int], int, NDArray[np.uint8]]:
    """Read a JPEG completely, but decode its grey pixels at an eighth of the size.

    Returns the stored size (H, W), the orientation, and the pixels (h, w), not turned upright.
    """
    with open_image(io.BytesIO(content), path, options) as image:
        width, height = image.size
        orientation = _valid_orientation(image.getexif().get(ExifTags.Base.Orientation, 1))
        image.draft("L", (width // 8, height // 8))
        image.load()
        grey = np.asarray(image.convert("L"))
    return (height, width), _applied_orientation(orientation, options), grey


def _read_stored(source: Path | io.BytesIO, path: Path, options: ImageOptions) -> _StoredPixels:
    """Return the one or three bands of the image, before its orientation is applied.

    source: file, or its content. path: file that messages name; an OME-Zarr is read from there.
    """
    if is_ome_zarr(path):
        return _read_stored_zarr(path, options)
    try:
        with open_image(source, path, options) as image:
            orientation = _valid_orientation(image.getexif().get(ExifTags.Base.Orientation, 1))
            if image.format == "TIFF" and not _is_plain_tiff(image, options):
                return _read_stored_tiff(source, path, options)
            if (
                image.format == "PNG"
                and image.mode in {"RGB", "RGBA", "LA"}
                and is_deep_png(source)
            ):
                pixels = _select_bands(_read_deep_png(source), path, options)
            else:
                check_single_page(image, path)
                pixels = _pillow_pixels(image, path, options)
            if image.format == "TIFF":  # Pillow has applied the orientation already
                pixels = _ORIENTATIONS[_INVERSE_ORIENTATION.get(orientation, orientation)](pixels)
            return _StoredPixels(pixels, _applied_orientation(orientation, options))
    except _UnknownToPillowError as error:
        if not _is_tiff(source):
            raise
        try:
            return _read_stored_tiff(source, path, options)
        except RecordError:
            raise
        except TIFF_ERRORS:
            raise error from None


def _read_stored_zarr(path: Path, options: ImageOptions) -> _StoredPixels:
    image = open_zarr_image(path).pyramid
    check_megapixels(image.size, path, options)
    try:
        pixels, _ = image.read(0, 0, *image.size[::-1], step=1)
    except ZARR_ERRORS as error:
        raise RecordError(f"{path}: the OME-Zarr cannot be read ({error})") from error
    return _stored_part(pixels, path, options, image)


def _pillow_pixels(image: Image.Image, path: Path, options: ImageOptions) -> Pixels:
    if options.bands is not None:
        plain = image.convert("RGB") if image.mode in {"P", "PA", "CMYK", "YCbCr"} else image
        return _select_bands(np.asarray(plain), path, options)
    if image.mode in _DEEP_GREY:
        return np.asarray(image)
    if image.mode in {"1", "L"}:
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB"))


def _read_stored_tiff(
    source: Path | io.BytesIO, path: Path, options: ImageOptions
) -> _StoredPixels:
    """Read a TIFF that Pillow does not read unchanged: deep colours, many bands, 64 bits."""
    if isinstance(source, io.BytesIO):
        source.seek(0)
    try:
        tiff = read_tiff(source, lambda size: check_megapixels(size, path, options))
    except SeveralPagesError as error:
        raise several_pages_error(path, str(error)) from None
    check_megapixels((tiff.pixels.shape[0], tiff.pixels.shape[1]), path, options)
    if tiff.are_pages and options.bands is None:
        raise RecordError(
            f"{path}: the file has several pages ({describe_pixels(tiff.pixels)}); save each page "
            "as a file, or read the pages as bands with data.bands"
        )
    orientation = _applied_orientation(_valid_orientation(tiff.orientation), options)
    is_colour = tiff.photometric == "RGB"
    pixels = _select_bands(tiff.shown(), path, options, tiff.alpha, is_colour)
    return _StoredPixels(pixels, orientation, tiff.nodata)


def _select_bands(
    pixels: Pixels,
    path: Path,
    options: ImageOptions,
    has_alpha: bool = True,
    is_colour: bool = True,
) -> Pixels:
    """Return one band (H, W) or three (H, W, 3): those of `options.bands`, or all of the image."""
    count = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype.kind not in "biuf":
        raise RecordError(
            f"{path}: the image has {describe_pixels(pixels)}; save integers or real numbers"
        )
    if options.bands is not None:
        if max(options.bands) > count:
            raise RecordError(
                f"{path}: the image has {describe_pixels(pixels)}, but data.bands selects "
                f"{list(options.bands)}; correct data.bands (the first band is 1)"
            )
        selected = pixels.reshape(*pixels.shape[:2], count)[..., [b - 1 for b in options.bands]]
        return selected[..., 0] if len(options.bands) == 1 else selected
    if pixels.ndim == 2:
        return pixels
    colours = count - has_alpha * (count in {2, 4})
    if colours == 1:
        return pixels[..., 0]
    if (colours == 3 and is_colour) or (count == 4 and is_colour):
        return pixels[..., :3]
    raise RecordError(
        f"{path}: the image has {describe_pixels(pixels)}; select three with data.bands, such as "
        "[3, 2, 1]"
    )


def describe_pixels(pixels: Pixels) -> str:
    """Describe pixels (H, W) or (H, W, bands): `5 bands of uint8`."""
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    return f"{bands} band{'s' if bands > 1 else ''} of {pixels.dtype}"


def _to_rgb8(stored: _StoredPixels, path: Path, options: ImageOptions) -> NDArray[np.uint8]:
    """Convert one band or three to RGB pixels (H, W, 3) of 8 bits."""
    pixels = stored.pixels
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype != np.uint8:
        pixels = _stretch(pixels, stored.nodata, path, options)
    return np.asarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def _stretch(
    pixels: Pixels, nodata: float | None, path: Path, options: ImageOptions
) -> NDArray[np.uint8]:
    """Scale values to 0..255. Pixels without data become black and do not affect the range."""
    values = pixels.astype(np.float64)
    missing = np.zeros(values.shape, dtype=bool)
    if nodata is not None:
        missing = np.isnan(values) if np.isnan(nodata) else values == nodata
    known = values[~missing] if missing.any() else values
    if not np.isfinite(known).all():
        raise RecordError(f"{path}: the image has NaN or infinite pixels; save it without them")
    low, high = _intensity_range(known, pixels.dtype, path, options)
    scaled = np.clip((values - low) * (255 / max(high - low, 1e-12)), 0, 255) + 0.5
    scaled[missing] = 0
    return scaled.astype(np.uint8)


def _intensity_range(
    known: NDArray[np.float64], dtype: np.dtype, path: Path, options: ImageOptions
) -> tuple[float, float]:
    intensity = options.intensity
    if known.size == 0:
        return 0.0, 1.0
    if isinstance(intensity, Percentiles):
        low, high = np.percentile(known, intensity.percentile)
        return float(low), float(high)
    if intensity == "min_max":
        return float(known.min()), float(known.max())
    if intensity == "bit_depth":
        if dtype.kind == "f":
            raise RecordError(
                f"{path}: {dtype} has no bit depth; set data.intensity to 'min_max', two numbers "
                "or percentiles"
            )
        return 0.0, float(np.iinfo(dtype).max)
    return intensity


def check_single_page(image: Image.Image, path: Path) -> None:
    """Raise RecordError for a file of several pages or frames; an MPO of a phone is allowed."""
    if getattr(image, "n_frames", 1) > 1 and image.format != _MULTI_PICTURE:
        raise several_pages_error(path)


def several_pages_error(path: Path, pages: str = "") -> RecordError:
    """Return the error for a file of several pages or frames. pages: their description."""
    return RecordError(
        f"{path}: the file has several pages{pages and f' ({pages})'}; save each page as a file"
    )


class _UnknownToPillowError(RecordError):
    """Image format that Pillow does not know."""


@contextmanager
def open_image(
    source: Path | io.BytesIO, path: Path, options: ImageOptions = DEFAULT_OPTIONS
) -> Iterator[Image.Image]:
    """Open an image or a mask with Pillow. Raises RecordError with the cause if that fails."""
    try:
        with _disable_pillow_limit():
            image = Image.open(source)
        with image:
            check_megapixels(image.size[::-1], path, options)
            yield image
    except RecordError:
        raise
    except UnidentifiedImageError:
        raise _UnknownToPillowError(f"{path}: {_unknown_format_message(source)}") from None
    except (OSError, SyntaxError, ValueError, EOFError, *TIFF_ERRORS) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecordError(f"{path}: the image cannot be read ({reason})") from error


def check_megapixels(size: tuple[int, int], path: Path, options: ImageOptions) -> None:
    """Raise RecordError for more pixels than `options.max_megapixels` allows; size: (H, W)."""
    megapixels = size[0] * size[1] / 1e6
    if megapixels > options.max_megapixels:
        raise RecordError(
            f"{path}: {size[1]}x{size[0]} pixels are {megapixels:.0f} megapixels, more than "
            f"data.max_megapixels ({options.max_megapixels:g}); cut it into tiles, or raise the "
            "limit"
        )


@contextmanager
def _disable_pillow_limit() -> Iterator[None]:
    """Disable Pillow's own limit on the number of pixels; `max_megapixels` replaces it."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _unknown_format_message(source: Path | io.BytesIO) -> str:
    """Describe the content of a file that Pillow does not know, and the remedy."""
    head = _head(source, 64)
    for signature, offset, message in _KNOWN_SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return message
    if not head:
        return "the file is empty (0 bytes); copy it again"
    return "the image cannot be read (no known image format); save it as PNG, JPEG or TIFF"


_KNOWN_SIGNATURES = (
    (b"ftyphei", 4, "the image is HEIC, which is not supported; save it as JPEG or PNG"),
    (b"ftypmif1", 4, "the image is HEIF, which is not supported; save it as JPEG or PNG"),
    (b"ftypavif", 4, "the image is AVIF, which is not supported; save it as JPEG or PNG"),
    (b"version https://git-lfs", 0, "the file is a Git LFS pointer; run `git lfs pull`"),
    (b"<!DOCTYPE", 0, "the file is a web page, not an image; download it again"),
    (b"<html", 0, "the file is a web page, not an image; download it again"),
    (b"\x93NUMPY", 0, "the file is a NumPy array, not an image; save it as TIFF"),
    (b"\0\5\x16\7", 0, "the file is macOS metadata, not an image; remove it"),
)


def _head(source: Path | io.BytesIO, count: int) -> bytes:
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:count]
    with source.open("rb") as file:
        return file.read(count)


def _is_tiff(source: Path | io.BytesIO) -> bool:
    return _head(source, 4) in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def _is_plain_tiff(image: Image.Image, options: ImageOptions) -> bool:
    """Return whether Pillow reads the TIFF unchanged: one page of 8 bits, or of deep grey."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits, samples = tags.get(258, (1,)), tags.get(277, 1)
    deep_colour = max(bits) > 8 and samples > 1
    several = getattr(image, "n_frames", 1) > 1
    nodata = 42113 in tags and image.mode in _DEEP_GREY
    return not (options.bands or deep_colour or samples > 4 or several or nodata)


def is_deep_png(source: Path | io.BytesIO) -> bool:
    """Return whether a PNG has 16 bits per channel."""
    return _head(source, 25)[24] == 16


def _read_deep_png(source: Path | io.BytesIO) -> Pixels:
    """Return the pixels (H, W, bands) of a 16-bit RGB or RGBA PNG; Pillow keeps only 8 bits."""
    content = source.getvalue() if isinstance(source, io.BytesIO) else source.read_bytes()
    pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise OSError("the PNG is damaged")
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return np.asarray(pixels[..., order])


def _valid_orientation(orientation: object) -> int:
    """Return the orientation of a file, or 1 for a value outside of the standard."""
    return orientation if isinstance(orientation, int) and orientation in _ORIENTATIONS else 1


def _applied_orientation(orientation: int, options: ImageOptions) -> int:
    return 1 if options.exif_orientation == "ignore" else orientation
