"""ISAT's JSON, one file per image: polygons in layers.

`info` has the size of the image, `objects` have `category`, `group`, `segmentation` (points),
`layer` and `iscrowd`. Polygons of one category and one group are parts of one object.
`__background__` erases objects on lower layers.
"""

import msgspec

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items, size_error
from mobile_sam.data.formats.text_files import parse_json
from mobile_sam.data.images import ImageFacts, RecordError
from mobile_sam.data.masks import encode_polygons, merge, subtract
from mobile_sam.data.record import Record

_BACKGROUND = "__background__"


class _Info(msgspec.Struct):
    height: int | None = None
    width: int | None = None


class _Object(msgspec.Struct):
    category: str
    segmentation: list[tuple[float, float]]
    group: int | str | None = None
    layer: float = 1.0
    iscrowd: bool | int = False


class _File(msgspec.Struct):
    info: _Info
    objects: list[_Object]


def read_isat(record: Record, image: ImageFacts, options: Data, text: bytes) -> Items:
    """Read the objects of a file. text: its content."""
    (path,) = record.sources
    file = parse_json(text, path, _File, "an ISAT file")
    if file.info.height and file.info.width and (file.info.height, file.info.width) != image.size:
        raise size_error(path, "the annotations are of", (file.info.height, file.info.width), image)
    groups: dict[object, list[int]] = {}
    codes: dict[int, bytes] = {}
    for number, item in enumerate(file.objects):
        flat = [n for point in item.segmentation for n in point]
        try:
            codes[number] = encode_polygons([flat], image.size)
        except ValueError as error:
            yield RecordError(f"{path}: objects[{number}]: {error}")
            continue
        key = number if item.group in {None, 0, ""} else (item.category, item.group)
        groups.setdefault(key, []).append(number)
    erasers = [n for n in codes if file.objects[n].category == _BACKGROUND]
    for members in groups.values():
        first = file.objects[members[0]]
        if first.category == _BACKGROUND:
            continue
        above = [codes[n] for n in erasers if file.objects[n].layer > first.layer]
        union = merge([codes[n] for n in members], image.size)
        code = subtract(union, above, image.size)
        yield Annotation(str(members[0]), path, code, first.category, bool(first.iscrowd))
