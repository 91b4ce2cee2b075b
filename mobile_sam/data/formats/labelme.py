"""LabelMe's JSON beside each image: polygons, rectangles, circles and masks.

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
from mobile_sam.data.formats.json_files import parse_json
from mobile_sam.data.images import ImageFacts, RecordError
from mobile_sam.data.masks import Size, encode, encode_polygons, merge
from mobile_sam.data.record import Record

_CIRCLE_POINTS = 64  # corners


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
    file = parse_json(text, path, _File, "a file of LabelMe")
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
    for parts in groups.values():
        first = parts[0][0]
        label = file.shapes[first].label
        code = merge([code for _, code in parts], image.size)
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
            raise ValueError(
                "a 'rectangle' of 4 points that are not its corners; make it a polygon"
            )
    elif kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = float(np.hypot(edge[0] - x, edge[1] - y))
        turns = np.arange(_CIRCLE_POINTS) * (2 * np.pi / _CIRCLE_POINTS)
        polygon = list(zip(x + radius * np.cos(turns), y + radius * np.sin(turns), strict=True))
    elif kind == "mask" and len(points) == 2 and shape.mask:
        return _decode_mask(shape.mask, points[0], size)
    else:
        raise ValueError(
            f"a {kind!r} of {len(points)} points has no area; draw a polygon, or remove it"
        )
    return encode_polygons([[float(n) for point in polygon for n in point]], size)


def _decode_mask(text: str, corner: tuple[float, float], size: Size) -> bytes:
    """A mask in base64, a PNG of its bounding box; corner: xy of its first pixel."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
            part = np.asarray(picture.convert("L")) > 0
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError) as error:
        raise ValueError(f"its mask is no PNG in base64 ({error}); draw it again") from None
    x, y = (round(place) for place in corner)
    height, width = part.shape
    if x < 0 or y < 0 or x + width > size[1] or y + height > size[0]:
        raise ValueError("its mask reaches beyond the image; draw it again")
    mask = np.zeros(size, dtype=bool)
    mask[y : y + height, x : x + width] = part
    return encode(mask)
