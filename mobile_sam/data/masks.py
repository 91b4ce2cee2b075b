"""Masks as COCO run-length codes, and geometry of masks."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from scipy import ndimage

from mobile_sam.metrics.mask_crop import MaskCrop, crop_mask, enlarge

Mask = NDArray[np.bool_]
Size = tuple[int, int]  # (H, W) in pixels
_ELLIPSE_POINTS = 64


def encode(mask: Mask) -> bytes:
    """Return COCO's compressed run-length code of a mask (H, W)."""
    pixels = np.ascontiguousarray(mask, dtype=bool).view(np.uint8)
    # OpenCV arranges bytes by column many times as fast as numpy.
    return coco.encode(cv2.transpose(pixels).T)["counts"]


def encode_labels(labels: NDArray[np.integer] | Mask) -> list[tuple[int, bytes]]:
    """Return all values but 0 of a label map (H, W), in order, with their run-length codes.

    The codes are those of `encode(labels == value)`. The time depends on the number of pixels, not
    of labels: runs down the columns are found once, and sorted by label.
    """
    flat = labels.ravel(order="F")
    starts = np.r_[0, np.flatnonzero(flat[1:] != flat[:-1]) + 1]
    ends = np.r_[starts[1:], flat.size]
    used = flat[starts] != 0
    starts, ends = starts[used], ends[used]
    order = np.argsort(flat[starts], kind="stable")
    starts, ends = starts[order], ends[order]
    values, first = np.unique(flat[starts], return_index=True)
    if len(values) == 0:
        return []
    # Runs of each label: background and object alternate; then background to the end of the image.
    is_first = np.zeros(len(starts), dtype=bool)
    is_first[first] = True
    before = np.where(is_first, 0, np.r_[0, ends[:-1]])
    last = np.r_[first[1:], len(starts)] - 1
    lengths = np.stack([starts - before, ends - starts], axis=1).ravel()
    tails = flat.size - ends[last]
    counts = np.insert(lengths, 2 * (last + 1), tails)
    owner = np.repeat(np.arange(len(values)), 2 * np.diff(np.r_[first, len(starts)]) + 1)
    without_tail = np.flatnonzero(tails == 0)  # the code ends with the object
    ends_of = np.cumsum(np.bincount(owner)) - 1
    valid = np.ones(len(counts), dtype=bool)
    valid[ends_of[without_tail]] = False
    codes = _compress_runs(counts[valid], owner[valid], len(values))
    return [(int(value), code) for value, code in zip(values.tolist(), codes, strict=True)]


def _compress_runs(counts: NDArray[np.int64], owner: NDArray[np.int64], number: int) -> list[bytes]:
    """Return several codes in COCO's compressed form.

    counts: (R,) runs of all codes. owner: (R,) number of the code that each run belongs to.
    number: number of codes.
    From the fourth run of a code on, the difference to the run two before is stored. A character
    holds 5 bits, and a sixth bit that marks a continuation.
    """
    first = np.searchsorted(owner, np.arange(number))
    position = np.arange(len(counts)) - first[owner]
    values = counts.copy()
    later = np.flatnonzero(position > 2)
    values[later] -= counts[later - 2]
    characters = np.zeros((len(values), 8), dtype=np.uint8)
    lengths = np.zeros(len(values), dtype=np.int64)
    unfinished = np.arange(len(values))
    while len(unfinished):
        low = values[unfinished] & 31
        values[unfinished] >>= 5
        more = np.where(low & 16, values[unfinished] != -1, values[unfinished] != 0)
        characters[unfinished, lengths[unfinished]] = low + 32 * more + 48
        lengths[unfinished] += 1
        unfinished = unfinished[more]
    text = characters[np.arange(8) < lengths[:, None]].tobytes()
    ends = np.cumsum(np.bincount(owner, weights=lengths, minlength=number)).astype(int).tolist()
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def split_labels(labels: NDArray[np.integer] | Mask) -> tuple[NDArray[np.int64], list[int]]:
    """Number the connected components of all values but 0 of a label map (H, W), from 1 on.

    Pixels connect along their sides. Returns the numbers (H, W), ordered by value, and the value
    of each component.
    """
    values, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape) + 1
    numbers = np.zeros(labels.shape, dtype=np.int64)
    component_values: list[int] = []
    for value, window in zip(values.tolist(), ndimage.find_objects(compact), strict=True):
        if value:
            mask = compact[window] == np.searchsorted(values, value) + 1
            components, count = ndimage.label(mask)
            numbers[window][mask] = components[mask] + len(component_values)
            component_values += [value] * count
    return numbers, component_values


def decode(counts: bytes, size: Size) -> Mask:
    """Decode a compressed run-length code to a mask (H, W)."""
    return coco.decode({"size": list(size), "counts": counts}).astype(bool)


def union(codes: list[bytes], size: Size) -> Mask:
    """Return the union (H, W) of masks given as codes; an empty mask for no code."""
    merged = coco.merge([{"size": list(size), "counts": code} for code in codes])
    return decode(merged["counts"], size) if codes else np.zeros(size, dtype=bool)


def merge(codes: list[bytes], size: Size) -> bytes:
    """Return the code of the union of one or more codes. size: (H, W) of the masks."""
    if len(codes) == 1:
        return codes[0]
    return coco.merge([{"size": list(size), "counts": code} for code in codes])["counts"]


def subtract(code: bytes, others: list[bytes], size: Size) -> bytes:
    """Return the code of the pixels in `code` but in none of the others. size: (H, W)."""
    return encode(decode(code, size) & ~union(others, size)) if others else code


def encode_polygons(polygons: list[list[float]], size: Size) -> bytes:
    """Encode the union of polygons, each `x0, y0, x1, y1, ...` in pixels, as a mask (H, W).

    Raises ValueError for a polygon of fewer than three points, or with a point far from the image.
    """
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                f"a polygon has {len(polygon)} coordinates; give x and y of 3 points or more"
            )
        if not _lies_near(polygon, size):
            # pycocotools 2.0.11 writes beyond its memory for coordinates of a billion.
            relative = np.array(polygon, dtype=np.float64).reshape(-1, 2) / size[::-1]
            far = ~np.all((relative >= -1) & (relative <= 2), axis=1)
            x, y = polygon[2 * int(far.argmax()) :][:2]
            raise ValueError(
                f"a polygon has a point at ({x:g}, {y:g}), far from its image of "
                f"{size[1]}x{size[0]} pixels; export it again"
            )
    codes = coco.frPyObjects(polygons, *size)
    return (codes[0] if len(codes) == 1 else coco.merge(codes))["counts"]


def _lies_near(polygon: list[float], size: Size) -> bool:
    """Return whether no point is further from the image (H, W) than the image's own size."""
    # Without numpy, which takes longer for so few numbers. The sum finds those that are not finite.
    x, y, (height, width) = polygon[::2], polygon[1::2], size
    return (
        math.isfinite(sum(polygon))
        and -1 <= min(x) / width <= max(x) / width <= 2
        and -1 <= min(y) / height <= max(y) / height <= 2
    )


def ellipse_points(x: float, y: float, radius_x: float, radius_y: float) -> NDArray[np.float64]:
    """Return the corners (64, 2), xy, of a polygon that approximates an ellipse around (x, y)."""
    angles = np.arange(_ELLIPSE_POINTS) * (2 * np.pi / _ELLIPSE_POINTS)
    with np.errstate(over="ignore", invalid="ignore"):  # who encodes it refuses infinite corners
        return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def encode_runs(counts: list[int], size: Size) -> bytes:
    """Encode uncompressed run lengths, which start with background and go down the columns.

    Raises ValueError if they do not cover (H, W).
    """
    if min(counts, default=-1) < 0 or sum(counts) != size[0] * size[1]:
        raise ValueError(
            f"the runs cover {sum(counts)} pixels of {size[0] * size[1]}; export it again"
        )
    return coco.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]


def run_lengths(counts: bytes) -> NDArray[np.int64]:
    """Return the pixels of each run of a compressed code, down the columns, background first.

    Raises ValueError for a truncated code. COCO's code has 5 bits per character and a sixth bit
    that marks a continuation; from the fourth run on, it stores differences to the run two before.
    """
    digits = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)
    if len(ends) == 0 or ends[-1] != len(digits) - 1 or digits.min() < 0 or digits.max() > 63:
        raise ValueError("the run-length code is truncated or not COCO's; export it again")
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    position = np.arange(len(digits)) - np.repeat(starts, lengths)
    if lengths.max() > 8:
        raise ValueError("the run-length code has a run longer than any image; export it again")
    runs = np.add.reduceat((digits & 31) << (5 * position), starts)
    runs -= np.where(digits[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def check_code(counts: bytes, size: Size) -> bytes:
    """Return the code. Raises ValueError unless it covers (H, W), which decoders do not check."""
    runs = run_lengths(counts)
    if runs.min() < 0 or runs.sum() != size[0] * size[1]:
        raise ValueError(
            f"the code covers {runs.sum()} pixels of {size[0] * size[1]}; export it again"
        )
    return counts


class EncodedMasks:
    """Masks (H, W) as compressed run-length codes, decoded one at a time."""

    def __init__(self, codes: Iterable[bytes], size: Size) -> None:
        self.codes, self.size = list(codes), size
        self.boxes, self.areas = boxes_and_areas(self.codes, size)

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[Mask]:
        return (decode(code, self.size) for code in self.codes)

    def largest_first(self) -> Iterator["CroppedMask"]:
        """Yield masks in the order of painting, small ones last; memory holds one cropped mask.

        Empty masks are skipped.
        """
        for place in np.argsort(-self.areas, kind="stable").tolist():
            if self.areas[place]:
                x0, y0, x1, y1 = self.boxes[place].tolist()
                window = slice(y0, y1), slice(x0, x1)
                yield CroppedMask(
                    place, window, _columns(self.codes[place], self.size[0], x0, x1)[y0:y1]
                )


def decode_crop(counts: bytes, size: Size, box: tuple[int, int, int, int]) -> MaskCrop:
    """Decode a compressed code of an image of (H, W) in a box, xyxy, that contains its mask."""
    x0, y0, x1, y1 = box
    return MaskCrop.tight(_columns(counts, size[0], x0, x1)[y0:y1], x0, y0, size)


def encode_crop(crop: MaskCrop) -> bytes:
    """Return the code of a mask in its image, as `encode` does; the time depends on the crop."""
    height, width = crop.pixels.shape
    # Background above and below each column keeps its runs apart from those of the next one.
    columns = np.zeros((width, height + 2), dtype=bool)
    columns[:, 1:-1] = crop.pixels.T
    flips = np.flatnonzero(columns.ravel()[1:] != columns.ravel()[:-1]) + 1
    column, row = np.divmod(flips, height + 2)
    places = (crop.x0 + column) * crop.size[0] + crop.y0 + row - 1
    starts, ends = places[::2], places[1::2]
    # Runs go on from the last pixel of a column to the first of the next.
    goes_on = starts[1:] == ends[:-1]
    starts = np.delete(starts, np.flatnonzero(goes_on) + 1)
    ends = np.delete(ends, np.flatnonzero(goes_on))
    bounds = np.r_[0, np.stack([starts, ends], axis=1).ravel(), crop.size[0] * crop.size[1]]
    counts = np.diff(bounds)
    counts = counts[:-1] if counts[-1] == 0 else counts
    return _compress_runs(counts, np.zeros(len(counts), dtype=np.int64), 1)[0]


def _columns(counts: bytes, height: int, x0: int, x1: int) -> Mask:
    """Decode the columns x0 to x1 of an image, (H, x1 - x0)."""
    ends = np.cumsum(run_lengths(counts)).clip(x0 * height, x1 * height)
    lengths = np.diff(ends, prepend=x0 * height)
    pixels = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return pixels.reshape(x1 - x0, height).T


class CroppedMask(NamedTuple):
    """Mask cropped to its bounding box. place: its index. window: slices of rows and columns."""

    place: int
    window: tuple[slice, slice]
    mask: Mask


def boxes_and_areas(codes: list[bytes], size: Size) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return boxes (N, 4) xyxy, x1 and y1 exclusive, and areas (N,) of codes, in pixels."""
    if not codes:
        return np.zeros((0, 4), dtype=np.int64), np.zeros(0, dtype=np.int64)
    objects = [{"size": list(size), "counts": code} for code in codes]
    boxes = coco.toBbox(objects).astype(np.int64)
    boxes[:, 2:] += boxes[:, :2]
    # pycocotools 2.0.11 fails for a list of more than 255 codes.
    areas = [coco.area(objects[start : start + 255]) for start in range(0, len(objects), 255)]
    return boxes, np.concatenate(areas).astype(np.int64)


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """Return (x0, y0, x1, y1) in pixels, x1 and y1 exclusive. Raises ValueError if empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        raise ValueError("an empty mask has no bounding box")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def interior_point(mask: Mask | MaskCrop) -> tuple[int, int]:
    """Return (x, y) of the pixel deepest inside the mask; the first one of several.

    mask: (H, W), not empty. The surroundings of the image count as background.
    """
    return deepest_pixel(mask)[1:]


def deepest_pixel(
    mask: Mask | MaskCrop, excluded: Iterable[tuple[int, int]] = ()
) -> tuple[int, int, int]:
    """Return the squared depth of the deepest pixel, and its (x, y); (0, 0, 0) without any.

    The depth of a pixel of the mask, (H, W), is its distance from the background, in pixels; the
    surroundings of the image count as background. The first of several pixels is taken.
    excluded: (x, y) of pixels that are not taken. Squared distances between pixels are integers:
    rounding to them makes equal depths equal, so that the deepest pixel is deterministic.
    """
    crop, taken = crop_mask(mask), list(excluded)
    if crop.pixels.size > _CHAMFER_FIRST:
        crop = _surroundings_of_deepest(crop, taken)
    if not crop.area:
        return 0, 0, 0
    depth = _depths(crop, taken, cv2.DIST_MASK_PRECISE)
    deepest = round(float(depth.max()) ** 2)
    if deepest == 0:
        return 0, 0, 0
    row, column = np.unravel_index(int((depth > math.sqrt(deepest - 0.5)).argmax()), depth.shape)
    return deepest, crop.x0 + int(column), crop.y0 + int(row)


_CHAMFER_FIRST = 64 * 64  # pixels; for fewer, exact distances are as fast


def _surroundings_of_deepest(crop: MaskCrop, excluded: list[tuple[int, int]]) -> MaskCrop:
    """Crop a mask to its deepest pixels and all that is at their depth from them.

    Chamfer distances take a quarter of the time of exact ones. They are 1.8 % too short to 2 % too
    long (Borgefors 1986, "Distance transformations in digital images").
    """
    depth = _depths(crop, excluded, cv2.DIST_MASK_5)
    deepest = float(depth.max())
    x, y, width, height = cv2.boundingRect((depth >= 0.96 * deepest).view(np.uint8))
    x, y = x + crop.x0, y + crop.y0
    margin = math.ceil(1.02 * deepest) + 1
    box = enlarge((x, y, x + width, y + height), margin, crop.size)
    return MaskCrop(np.ascontiguousarray(crop.within(box)), box[0], box[1], crop.size)


def _depths(crop: MaskCrop, excluded: list[tuple[int, int]], kind: int) -> NDArray[np.float32]:
    """Return the distance of each pixel from the background, (h, w); 0 for excluded ones."""
    padded = np.pad(crop.pixels.view(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, kind)
    depth = np.asarray(distance, np.float32)[1:-1, 1:-1]
    x0, y0, x1, y1 = crop.box
    for x, y in excluded:
        if x0 <= x < x1 and y0 <= y < y1:
            depth[y - y0, x - x0] = 0
    return depth
