"""Label Studio's JSON export: a list of tasks, each with an image and what was drawn on it.

Polygons, brushes and ellipses are segments; places are in percent of the image's sides. Brushes are
packed by `rle-pack`: a head of 32 bits (number of bytes), 5 bits (bits of a value, less 1) and four
times 4 bits (bits of run lengths, less 1); then runs, each with a bit that says whether one value
is repeated, 2 bits that choose the size of the length, the length less 1, and the value or values.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items, Note, size_error
from mobile_sam.data.formats.coco import CocoImage
from mobile_sam.data.formats.json_files import parse_json
from mobile_sam.data.images import IMAGE_SUFFIXES, ImageFacts, RecordError
from mobile_sam.data.masks import Mask, Size, encode, encode_polygons
from mobile_sam.data.record import ListedAnnotation, Record

_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # that Label Studio puts before the name of an upload
_ELLIPSE_POINTS = 64  # corners
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


def label_studio_images(path: Path, content: bytes, problems: list[str]) -> Iterator[CocoImage]:
    """Yield the images of an export, each with what was drawn on it.

    problems: gets a sentence for each task that cannot be used.
    Raises RecordError for a file of another form.
    """
    for task in parse_json(content, path, list[_Task], "an export of Label Studio"):
        told = f"{path}: task {task.id}"
        name = _file_name(task)
        given = [item for item in task.annotations if not item.was_cancelled]
        if name is None:
            problems.append(f"{told}: its data names no image; remove the task")
        elif len(given) > 1:
            problems.append(f"{told}: {len(given)} annotations of one image; keep one")
        else:
            raw = given[0].result if given else []
            objects = [
                ListedAnnotation(str(number), None, False, result)
                for number, result in enumerate(raw)
            ]
            yield CocoImage(name, None, tuple(objects))


def strip_upload_prefix(name: str) -> str:
    """Return the name that a file had before it was uploaded to Label Studio."""
    path = PurePosixPath(name)
    return path.with_name(_UPLOAD_PREFIX.sub("", path.name) or path.name).as_posix()


def _file_name(task: _Task) -> str | None:
    places = [value for value in task.data.values() if isinstance(value, str)]
    for place in [*places, task.file_upload or ""]:
        address = urlsplit(place)
        local = parse_qs(address.query).get("d", [unquote(address.path)])[0]
        if PurePosixPath(local).suffix.lower() in IMAGE_SUFFIXES:
            return local.lstrip("/")
    return None


def read_label_studio(record: Record, image: ImageFacts, options: Data) -> Items:
    """Read what an export has of one image."""
    (path,) = record.sources
    for item in record.objects:
        told = f"{path}: {record.image_id}: result {item.segment_id}"
        try:
            result = msgspec.json.decode(item.segmentation, type=_Result)
        except msgspec.DecodeError as error:
            yield RecordError(f"{told}: not a result of Label Studio ({error})")
            continue
        kind = result.type.removesuffix("labels")
        if kind in {"rectangle", "keypoint", "video"} or kind not in _SEGMENT_KINDS:
            yield Note(f"{told}: a {result.type!r} is no segment, and is not read")
            continue
        size = result.original_height, result.original_width
        if None not in size and size != image.size:
            raise size_error(path, "the annotations are of", (size[0] or 0, size[1] or 0), image)
        try:
            code = _encode_result(result, kind, image.size)
        except ValueError as error:
            yield RecordError(f"{told}: {error}")
            continue
        labels = result.value.get(f"{kind}labels") or [None]
        name = item.segment_id if result.id is None else str(result.id)
        yield Annotation(name, path, code, None if labels[0] is None else str(labels[0]))


def _encode_result(result: _Result, kind: str, size: Size) -> bytes:
    value = result.value
    if result.image_rotation:
        raise ValueError(f"the image was turned by {result.image_rotation:g} degrees; turn it back")
    try:
        if kind == "brush":
            return encode(_decode_brush(value["rle"], size))
        if kind == "polygon":
            places = np.array(value["points"], dtype=np.float64)
        else:
            places = _ellipse_points(value)
        corners = places.reshape(-1, 2) / 100 * size[::-1]
    except (KeyError, TypeError) as error:
        raise ValueError(f"its value has no {error}; export it again") from None
    return encode_polygons([corners.ravel().tolist()], size)


def _ellipse_points(value: dict[str, Any]) -> NDArray[np.float64]:
    turns = np.arange(_ELLIPSE_POINTS) * (2 * np.pi / _ELLIPSE_POINTS)
    if value.get("rotation"):
        raise ValueError("a turned ellipse is not read; draw a polygon")
    x, y = value["x"], value["y"]
    return np.stack(
        [x + value["radiusX"] * np.cos(turns), y + value["radiusY"] * np.sin(turns)], axis=1
    )


def _decode_brush(packed: list[int], size: Size) -> Mask:
    """The mask (H, W) of a brush: where the alpha of its RGBA pixels is not 0."""
    bits = "".join(f"{byte:08b}" for byte in packed)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("its brush is cut off; export it again")
        place += count
        return int(bits[place - count : place], 2)

    total, width = read(32), read(5) + 1
    if total != 4 * size[0] * size[1]:
        raise ValueError(
            f"its brush has {total // 4} pixels, the image {size[0] * size[1]}; export it again"
        )
    sizes = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, dtype=np.int64)
    done = 0
    while done < total:
        repeated = read(1)
        end = done + 1 + read(sizes[read(2)])
        if repeated:
            values[done:end] = read(width)
        else:
            for at in range(done, min(end, total)):
                values[at] = read(width)
        done = end
    return values.reshape(*size, 4)[..., 3] > 0
