"""Label Studio's JSON export: a list of tasks, each with an image and its annotations.

Polygons, brushes and ellipses are segments; coordinates are in percent of the image's sides.
Brushes are packed by `rle-pack`. The header has 32 bits for the number of bytes, 5 bits for the
bits of a value minus 1, and four times 4 bits for the bits of a run length minus 1. Each run has a
bit that is 1 for a repeated value, 2 bits that select one of the four lengths, the run length
minus 1, and the value or values.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import numpy as np

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items, Note, size_error
from mobile_sam.data.formats.text_files import parse_json
from mobile_sam.data.images import IMAGE_SUFFIXES, ImageFacts, RecordError
from mobile_sam.data.masks import Mask, Size, ellipse_points, encode, encode_polygons
from mobile_sam.data.record import ListedAnnotation, ListedImage, Record

_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # prefix that Label Studio adds to uploaded files
_SEGMENT_KINDS = ("polygon", "brush", "ellipse")


class _Result(msgspec.Struct):
    type: str = ""
    value: dict[str, Any] = {}
    id: str | int | None = None
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: float = 0


class _Annotations(msgspec.Struct):
    result: list[msgspec.Raw] = []
    was_cancelled: bool = False


class _Task(msgspec.Struct):
    data: dict[str, Any]
    annotations: list[_Annotations]
    id: int | str | None = None
    file_upload: str | None = None


def is_label_studio(content: bytes) -> bool:
    """Return whether the text of a JSON file looks like a list of Label Studio tasks."""
    head = content.lstrip()
    return head[:1] == b"[" and b'"annotations"' in head and b'"data"' in head


def label_studio_images(path: Path, content: bytes, problems: list[str]) -> Iterator[ListedImage]:
    """Yield the images of an export, each with its annotations.

    problems: list to which a sentence for each task that cannot be used is added.
    Raises RecordError for a file of another format.
    """
    for task in parse_json(content, path, list[_Task], "a Label Studio export"):
        place = f"{path}: task {task.id}"
        name = _file_name(task)
        annotations = [item for item in task.annotations if not item.was_cancelled]
        if name is None:
            problems.append(f"{place}: `data` has no image file; remove the task")
        elif len(annotations) > 1:
            problems.append(f"{place}: {len(annotations)} annotations of one image; keep one")
        else:
            results = annotations[0].result if annotations else []
            objects = [
                ListedAnnotation(str(number), None, False, result)
                for number, result in enumerate(results)
            ]
            yield ListedImage(name, None, tuple(objects))


def strip_upload_prefix(name: str) -> str:
    """Return the name of a file before its upload to Label Studio."""
    path = PurePosixPath(name)
    return path.with_name(_UPLOAD_PREFIX.sub("", path.name) or path.name).as_posix()


def _file_name(task: _Task) -> str | None:
    texts = [value for value in task.data.values() if isinstance(value, str)]
    for text in [*texts, task.file_upload or ""]:
        try:
            address = urlsplit(text)
        except ValueError:  # a text that is not an address
            continue
        name = parse_qs(address.query).get("d", [unquote(address.path)])[0]
        if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
            return name.lstrip("/")
    return None


def read_label_studio(record: Record, image: ImageFacts, options: Data) -> Items:
    """Read the results of one image in an export."""
    (path,) = record.sources
    for item in record.objects:
        place = f"{path}: {record.image_id}: result {item.segment_id}"
        try:
            result = msgspec.json.decode(item.segmentation, type=_Result)
        except msgspec.DecodeError as error:
            yield RecordError(f"{place}: not a Label Studio result ({error}); export it again")
            continue
        kind = result.type.removesuffix("labels")
        if kind in {"rectangle", "keypoint", "video"} or kind not in _SEGMENT_KINDS:
            yield Note(f"{place}: skipped, because a {result.type!r} is not a segment")
            continue
        size = result.original_height, result.original_width
        if None not in size and size != image.size:
            raise size_error(path, "the annotations are of", (size[0] or 0, size[1] or 0), image)
        try:
            code = _encode_result(result, kind, image.size)
        except ValueError as error:
            yield RecordError(f"{place}: {error}")
            continue
        labels = result.value.get(f"{kind}labels")
        label = labels[0] if isinstance(labels, list) and labels else None
        name = item.segment_id if result.id is None else str(result.id)
        yield Annotation(name, path, code, None if label is None else str(label))


def _encode_result(result: _Result, kind: str, size: Size) -> bytes:
    value = result.value
    if result.image_rotation:
        raise ValueError(
            f"the image is rotated by {result.image_rotation:g} degrees; rotate it back"
        )
    try:
        if kind == "brush":
            return encode(_decode_brush(value["rle"], size))
        if kind == "polygon":
            percent = np.array(value["points"], dtype=np.float64)
        elif value.get("rotation"):
            raise ValueError("rotated ellipses are not supported; draw a polygon")
        else:
            percent = ellipse_points(value["x"], value["y"], value["radiusX"], value["radiusY"])
        corners = percent.reshape(-1, 2) / 100 * size[::-1]
    except (KeyError, TypeError) as error:
        raise ValueError(f"`value` has no {error}; export it again") from None
    return encode_polygons([corners.ravel().tolist()], size)


def _decode_brush(packed: list[int], size: Size) -> Mask:
    """Return the mask (H, W) of a brush: the RGBA pixels whose alpha is not 0."""
    bits = "".join(f"{byte:08b}" for byte in packed)
    position = 0

    def read(count: int) -> int:
        nonlocal position
        if position + count > len(bits):
            raise ValueError("the brush is truncated; export it again")
        position += count
        return int(bits[position - count : position], 2)

    total, width = read(32), read(5) + 1
    if total != 4 * size[0] * size[1]:
        raise ValueError(
            f"the brush has {total // 4} pixels, the image {size[0] * size[1]}; export it again"
        )
    length_bits = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, dtype=np.int64)
    start = 0
    while start < total:
        repeated = read(1)
        end = start + 1 + read(length_bits[read(2)])
        if repeated:
            values[start:end] = read(width)
        else:
            for index in range(start, min(end, total)):
                values[index] = read(width)
        start = end
    return values.reshape(*size, 4)[..., 3] > 0
