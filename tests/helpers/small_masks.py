"""Small masks as PNG and TIFF, drawn by hypothesis."""

import io
from typing import Any

import numpy as np
import tifffile
from hypothesis import strategies as st
from PIL import Image

from mobile_sam.config.sections import Data
from tests.helpers.mutations import Draw, damaged
from tests.helpers.readings import Size
from tests.helpers.small_files import drawn_box

PNG_MODES = ["1", "L", "L", "P", "P", "LA", "RGB", "RGBA", "I;16", "L+tRNS", "RGB+tRNS"]
TIFF_TYPES = ["uint8", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"]
TIFF_TYPES += ["float32", "float64", "float16", "bool"]
COMPRESSIONS = [None, None, "lzw", "zlib", "packbits", "lzma", "zstd", "jpeg"]
OF_PILLOW = [None, "group3", "group4", "tiff_lzw", "packbits", "tiff_deflate", "jpeg"]
COLOURS = [(255, 0, 0), (0, 128, 0), (128, 0, 128), (0, 0, 1), (200, 200, 200)]


def drawn_options(draw: Draw) -> Data:
    """Draw the options that say how masks are read."""
    return Data(
        soft_masks=draw(st.sampled_from(["refuse", "refuse", "refuse", "labels", 0.5])),
        read_masks_by=draw(st.sampled_from(["both", "both", "number", "colour"])),
        split_components=draw(st.booleans()),
    )


def drawn_labels(draw: Draw, size: Size, most: int) -> np.ndarray:
    """Draw a label map (H, W) of one to three boxes, or noise, with values up to `most`."""
    labels = np.zeros(size, dtype=np.int64)
    values = [1, 1, most, most, *(value for value in (2, 7, 100, 254, 300) if value <= most)]
    if draw(st.integers(0, 9)) == 0:
        rng = np.random.default_rng(draw(st.integers(0, 999)))
        return rng.choice([0, *values], size=size)
    for _ in range(draw(st.integers(0, 3))):
        x0, y0, x1, y1 = drawn_box(draw, size)
        labels[y0:y1, x0:x1] = draw(st.sampled_from(values))
    return labels


def png_bytes(draw: Draw, size: Size, one: bool) -> tuple[bytes, bool]:
    """Return a PNG of (H, W), and whether it is sound. one: whether it has one object."""
    mode = draw(st.sampled_from(PNG_MODES))
    most = {"1": 1, "I;16": 1000}.get(mode, 255)
    labels = drawn_labels(draw, size, 1 if one else most)
    if one and mode != "P":
        labels *= draw(st.sampled_from([1, most]))
    image, more = _png(draw, mode, labels)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, **more)
    content = file.getvalue()
    if draw(st.integers(0, 2)) == 0:
        return damaged(draw, content), False
    return content, True


def _png(draw: Draw, mode: str, labels: np.ndarray) -> tuple[Image.Image, dict[str, Any]]:
    if mode == "1":
        return Image.fromarray(labels > 0), {}
    if mode == "I;16":
        return Image.fromarray(labels.astype(np.uint16)), {}
    grey = Image.fromarray(labels.astype(np.uint8))
    if mode in {"L", "L+tRNS"}:
        return grey, {"transparency": 0} if "+" in mode else {}
    if mode == "P":
        return _palette(draw, grey)
    alpha = draw(st.sampled_from([0, 128, 255, None]))
    transparency = (
        Image.fromarray((labels > 0).astype(np.uint8) * np.uint8(255))
        if alpha is None
        else Image.new("L", grey.size, alpha)
    )
    if mode == "LA":
        level = draw(st.sampled_from([grey, Image.new("L", grey.size, 9)]))
        return Image.merge("LA", [level, transparency]), {}
    table = np.array([(0, 0, 0), *COLOURS], dtype=np.uint8)
    if draw(st.integers(0, 4)) == 0:
        table[0] = 255
    colours = Image.fromarray(table[labels % len(table)])
    if mode == "RGBA":
        colours.putalpha(transparency)
    return colours, {"transparency": (0, 0, 0)} if "+" in mode else {}


def _palette(draw: Draw, grey: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
    """Numbers with a palette: black first, white first, or one of any colours."""
    kind = draw(st.sampled_from(["black first", "black first", "white first", "any"]))
    levels = np.arange(256)
    colours = np.stack([(levels * step) % 256 for step in (37, 101, 197)], axis=1)
    if kind == "white first":
        colours[0], colours[1] = 255, draw(st.sampled_from([0, 0, 40]))
    if kind == "any":
        colours = colours[::-1].copy()
    image = grey.copy()
    image.putpalette(colours.astype(np.uint8).tobytes())
    return image, {"transparency": 0} if draw(st.integers(0, 4)) == 0 else {}


def tiff_bytes(draw: Draw, size: Size, one: bool) -> tuple[bytes, bool]:
    """Return a TIFF of (H, W), and whether it is sound. one: whether it has one object."""
    content = _by_pillow(draw, size) if draw(st.integers(0, 4)) == 0 else _tiff(draw, size, one)
    if draw(st.integers(0, 2)) == 0:
        return damaged(draw, content), False
    return content, True


def _by_pillow(draw: Draw, size: Size) -> bytes:
    compression, file = draw(st.sampled_from(OF_PILLOW)), io.BytesIO()
    image = Image.fromarray(drawn_labels(draw, size, 1) > 0)
    if compression not in {"group3", "group4"} and draw(st.booleans()):
        image = image.convert("L")
    if compression == "jpeg":
        image = image.convert("L")
    more = {"tiffinfo": {262: 0}} if draw(st.booleans()) else {}
    image.save(file, "TIFF", compression=compression, **more)
    return file.getvalue()


def _tiff(draw: Draw, size: Size, one: bool) -> bytes:
    kind: str = draw(st.sampled_from(TIFF_TYPES))
    dtype, file = np.dtype(kind), io.BytesIO()
    top = {"b": 1, "f": 300}.get(dtype.kind) or min(int(np.iinfo(dtype).max), 70_000)
    labels = drawn_labels(draw, size, 1 if one else top) * (
        draw(st.sampled_from([1, top])) if one else 1
    )
    pixels = labels.astype(dtype)
    if dtype.kind == "f" and draw(st.integers(0, 2)) == 0:
        pixels.flat[0] = draw(st.sampled_from([np.nan, np.inf, 0.5, -1.0]))
    if dtype.kind == "i" and draw(st.integers(0, 4)) == 0:
        pixels.flat[0] = -1
    more = _tags(draw, pixels)
    if "colormap" not in more and draw(st.integers(0, 7)) == 0:
        pixels = np.stack([pixels] * draw(st.sampled_from([2, 3])))  # pages
        more = {"photometric": "minisblack"}
    try:
        tifffile.imwrite(file, pixels, **more)
    except Exception:  # noqa: BLE001 - a pair of type and compression that nobody can write
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, photometric="minisblack")
    return file.getvalue()


def _tags(draw: Draw, pixels: np.ndarray) -> dict[str, Any]:
    more: dict[str, Any] = {
        "photometric": draw(st.sampled_from(["minisblack"] * 2 + ["miniswhite"]))
    }
    more["compression"] = draw(st.sampled_from(COMPRESSIONS))
    more["byteorder"] = draw(st.sampled_from(["<", "<", ">"]))
    more["bigtiff"] = draw(st.integers(0, 7)) == 0
    more["predictor"] = more["compression"] in {"lzw", "zlib"} and draw(st.booleans())
    if pixels.dtype == np.uint8 and draw(st.integers(0, 3)) == 0:
        ramp = np.arange(256, dtype=np.uint16) * 257
        ramp = draw(st.sampled_from([ramp, ramp[::-1], ramp[::-1]]))
        more |= {"photometric": "palette", "colormap": np.stack([ramp] * 3)}
    if draw(st.integers(0, 5)) == 0:
        turn = draw(st.integers(1, 9))
        more["extratags"] = [(274, "H", 1, turn, True)]
    return more
