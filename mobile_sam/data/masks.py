"""Masks as run-length codes, and the shapes derived from them."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Mask = NDArray[np.bool_]
Size = tuple[int, int]  # (H, W) in pixels


def encode(mask: Mask) -> bytes:
    """COCO's compressed run-length code of a mask (H, W)."""
    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]


def decode(counts: bytes, size: Size) -> Mask:
    """The mask (H, W) of a compressed run-length code."""
    return coco.decode({"size": list(size), "counts": counts}).astype(bool)


def union(codes: list[bytes], size: Size) -> Mask:
    """The pixels (H, W) that any of the codes covers; there may be no code at all."""
    merged = coco.merge([{"size": list(size), "counts": code} for code in codes])
    return decode(merged["counts"], size) if codes else np.zeros(size, dtype=bool)


def encode_polygons(polygons: list[list[float]], size: Size) -> bytes:
    """The code of the union of polygons, each `x0, y0, x1, y1, ...` in pixels of (H, W).

    Raises ValueError for a polygon of less than three points, or with one far from the image.
    """
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                f"a polygon has {len(polygon)} coordinates; give x and y of 3 points or more"
            )
        # pycocotools 2.0.11 writes beyond its memory for coordinates of a billion.
        places = np.array(polygon, dtype=np.float64).reshape(-1, 2) / size[::-1]
        far = ~np.all((places >= -1) & (places <= 2), axis=1)
        if far.any():
            x, y = polygon[2 * int(far.argmax()) :][:2]
            raise ValueError(
                f"a polygon has a point at ({x:g}, {y:g}), far from its image of "
                f"{size[1]}x{size[0]} pixels; export it again"
            )
    codes = coco.frPyObjects(polygons, *size)
    return (codes[0] if len(codes) == 1 else coco.merge(codes))["counts"]


def encode_runs(counts: list[int], size: Size) -> bytes:
    """The code of plain run lengths, which start with background and go down the columns.

    Raises ValueError when they do not cover (H, W).
    """
    if min(counts, default=-1) < 0 or sum(counts) != size[0] * size[1]:
        raise ValueError(
            f"the runs cover {sum(counts)} pixels of {size[0] * size[1]}; export it again"
        )
    return coco.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]


def run_lengths(counts: bytes) -> NDArray[np.int64]:
    """Pixels of each run of a compressed code: background first, in turns, down the columns.

    Raises ValueError for a code that is cut off. The code is COCO's: 5 bits a character, the sixth
    says that more follow; from the fourth run on the difference to the run before the last.
    """
    digits = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)
    if len(ends) == 0 or ends[-1] != len(digits) - 1 or digits.min() < 0 or digits.max() > 63:
        raise ValueError("the run-length code is cut off or of another kind; export it again")
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    place = np.arange(len(digits)) - np.repeat(starts, lengths)
    if lengths.max() > 8:
        raise ValueError("the run-length code has a run beyond all images; export it again")
    runs = np.add.reduceat((digits & 31) << (5 * place), starts)
    runs -= np.where(digits[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def check_code(counts: bytes, size: Size) -> bytes:
    """The same code, when it covers (H, W) exactly; else ValueError. Decoders trust it blindly."""
    runs = run_lengths(counts)
    if runs.min() < 0 or runs.sum() != size[0] * size[1]:
        raise ValueError(
            f"the code covers {runs.sum()} pixels of {size[0] * size[1]}; export it again"
        )
    return counts


def largest_first(masks: Sequence[Mask]) -> list[int]:
    """The places of masks (H, W) in the order in which they are painted: small ones on top."""
    return sorted(range(len(masks)), key=lambda n: -int(masks[n].sum()))


def boxes_and_areas(codes: list[bytes], size: Size) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bounding boxes (N, 4) xyxy, x1 and y1 exclusive, and areas (N,) of codes, in pixels."""
    if not codes:
        return np.zeros((0, 4), dtype=np.int64), np.zeros(0, dtype=np.int64)
    objects = [{"size": list(size), "counts": code} for code in codes]
    boxes = coco.toBbox(objects).astype(np.int64)
    boxes[:, 2:] += boxes[:, :2]
    # One by one: pycocotools 2.0.11 fails for a list of more than 255.
    return boxes, np.array([coco.area(code) for code in objects], dtype=np.int64)


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) in pixels; x1 and y1 are exclusive. Raises ValueError for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        raise ValueError("an empty mask has no bounding box")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def interior_point(mask: Mask) -> tuple[int, int]:
    """(x, y) of the pixel that lies deepest inside the mask; the first one when there are several.

    mask: (H, W), not empty. What lies outside the image counts as background.
    """
    y, x = np.unravel_index(int(squared_depth(mask).argmax()), mask.shape)
    return int(x), int(y)


def squared_depth(mask: Mask) -> NDArray[np.int64]:
    """Squared distance (H, W) in pixels of each pixel of the mask from what is not in it; else 0.

    What lies outside the image is not in the mask. Squares of distances between pixels are whole
    numbers: rounded to them, equal depths are equal, and the deepest pixel is always the same one.
    """
    squares = np.zeros(mask.shape, dtype=np.int64)
    if mask.any():
        x0, y0, x1, y1 = bounding_box(mask)
        padded = np.pad(mask[y0:y1, x0:x1], 1).astype(np.uint8)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        squares[y0:y1, x0:x1] = np.rint(np.square(depth, dtype=np.float64))
    return squares
