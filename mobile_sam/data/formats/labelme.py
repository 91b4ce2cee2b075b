"""LabelMe's JSON, one file per image: polygons, rectangles, circles and masks.

The keys are those of LabelMe 5: `shapes`, each with `label`, `points`, `shape_type`, `group_id`.
Shapes of one label and one `group_id` are parts of one object.
"""

import base64
import binascii
import io

import msgspec
import numpy as np
from PIL import Image, UnidentifiedImageError

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items, size_error
from mobile_sam.data.formats.text_files import parse_json
from mobile_sam.data.images import ImageFacts, RecordError
from mobile_sam.data.masks import Size, ellipse_points, encode, encode_polygons, merge
from mobile_sam.data.record import Record


class _Shape(msgspec.Struct):
    label: str | int | None = None
    points: list[tuple[float, float]] = []
    shape_type: str | None = "polygon"
    group_id: int | str | None = None
    mask: str | None = None


class _File(msgspec.Struct):
    shapes: list[_Shape]
    imageHeight: int | float | None = None  # noqa: N815
    imageWidth: int | float | None = None  # noqa: N815


def read_labelme(record: Record, image: ImageFacts, options: Data, text: bytes) -> Items:
    """Read the shapes of a file. text: its content."""
    (path,) = record.sources
    file = parse_json(text, path, _File, "a LabelMe file")
    if file.imageHeight and file.imageWidth:
        size = file.imageHeight, file.imageWidth
        if size != image.size:
            raise size_error(path, "the annotations are of", size, image)
    groups: dict[object, list[tuple[int, bytes]]] = {}
    for number, shape in enumerate(file.shapes):
        try:
            code = _encode_shape(shape, image.size)
        except ValueError as error:
            yield RecordError(f"{path}: shapes[{number}]: {error}")
            continue
        key = number if shape.group_id is None else (shape.label, shape.group_id)
        groups.setdefault(key, []).append((number, code))
    for members in groups.values():
        first = members[0][0]
        label = file.shapes[first].label
        code = merge([code for _, code in members], image.size)
        yield Annotation(str(first), path, code, None if label is None else str(label))


def _encode_shape(shape: _Shape, size: Size) -> bytes:
    points = shape.points
    kind = shape.shape_type or "polygon"
    if kind == "polygon":
        polygon = points
    elif kind == "rectangle" and len(points) in {2, 4}:
        xs, ys = zip(*points, strict=True)
        left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
        polygon = [(left, top), (right, top), (right, bottom), (left, bottom)]
        if len(points) == 4 and set(points) != set(polygon):
            raise ValueError("the 4 points of a 'rectangle' are not its corners; draw a polygon")
    elif kind == "circle" and len(points) == 2:
        (x, y), edge = points
        with np.errstate(over="ignore"):  # an infinite radius is refused with its polygon
            radius = float(np.hypot(edge[0] - x, edge[1] - y))
        polygon = ellipse_points(x, y, radius, radius).tolist()
    elif kind == "mask" and len(points) == 2 and shape.mask:
        return _decode_mask(shape.mask, points[0], size)
    else:
        raise ValueError(
            f"a {kind!r} of {len(points)} points has no area; draw a polygon, or remove it"
        )
    return encode_polygons([[float(n) for point in polygon for n in point]], size)


def _decode_mask(text: str, corner: tuple[float, float], size: Size) -> bytes:
    """Encode a mask that is stored as a base64 PNG of its bounding box.

    corner: xy of the first pixel of the bounding box in the image (H, W).
    """
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as png:
            cropped = np.asarray(png.convert("L")) > 0
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError) as error:
        raise ValueError(f"the mask is not a base64 PNG ({error}); draw it again") from None
    x, y = (round(coordinate) for coordinate in corner)
    height, width = cropped.shape
    if x < 0 or y < 0 or x + width > size[1] or y + height > size[0]:
        raise ValueError("the mask extends beyond the image; draw it again")
    mask = np.zeros(size, dtype=bool)
    mask[y : y + height, x : x + width] = cropped
    return encode(mask)
