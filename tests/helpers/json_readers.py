"""Readers of COCO, LabelMe and YOLO that share nothing with the package: json and pycocotools."""

import base64
import io
import json
import math
import re
import unicodedata
from collections import Counter
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from tests.helpers.readings import NoMeaningError, Reading, Segment, Size, exactly

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_OVERSHOOT = 0.05  # of a side, that YOLO's labels may reach beyond the image
_OTHER_FORMS = {"images", "annotations", "features", "geometry", "info", "objects"}


class UnclearError(NoMeaningError):
    """A file that may have a meaning for others."""


def json_of(content: bytes) -> Any:
    """Return the content of a JSON file. Raises NoMeaningError, of which UnclearError is one."""
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((e for mark, e in marks.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnclearError(str(error)) from error  # what is not needed may be in any encoding
    try:
        found = json.loads(text, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise NoMeaningError(str(error)) from error
    return found


def _no_number(text: str) -> float:
    raise ValueError(text)


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that is finite."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and abs(value) < 1e308


# Polygons and run-length codes ------------------------------------------------------------------


def polygon_mask(polygons: list[list[float]], size: Size) -> np.ndarray:
    """Return the pixels (H, W) of the union of polygons. Raises NoMeaningError."""
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2 or not all(map(is_number, polygon)):
            raise NoMeaningError("no polygon")
        for place, side in zip(polygon, size[::-1] * (len(polygon) // 2), strict=True):
            if not -side <= place <= 2 * side:
                raise NoMeaningError("far away")
    codes = coco.frPyObjects(polygons, *size)
    return coco.decode(coco.merge(codes)).astype(bool)


def segmentation_mask(found: Any, size: Size) -> np.ndarray:
    """Return the pixels (H, W) of a segmentation of COCO. Raises NoMeaningError."""
    if isinstance(found, dict):
        return _code_mask(found, size)
    if not isinstance(found, list) or not found:
        raise NoMeaningError("no segmentation")
    if all(map(is_number, found)):
        return polygon_mask([found], size)
    if not all(isinstance(polygon, list) for polygon in found):
        raise NoMeaningError("no polygons")
    if all(all(isinstance(place, list) for place in polygon) for polygon in found):
        if any(len(place) != 2 for polygon in found for place in polygon):
            raise NoMeaningError("no pairs")
        found = [[n for place in polygon for n in place] for polygon in found]
    return polygon_mask(found, size)


def _code_mask(code: dict[str, Any], size: Size) -> np.ndarray:
    counts, given = code.get("counts"), code.get("size")
    if given != list(size) or not all(type(side) is int for side in given):
        raise NoMeaningError("another size")
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise NoMeaningError("no runs")
    if sum(runs) != size[0] * size[1]:
        raise NoMeaningError("another number of pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size, order="F")


def _runs(text: str) -> list[int]:
    """Return the runs of a compressed code, as rleFrString of pycocotools does."""
    digits = [ord(character) - 48 for character in text]
    runs: list[int] = []
    place = 0
    while place < len(digits):
        value = shift = 0
        more = True
        while more:
            if place == len(digits) or not 0 <= digits[place] < 64:
                raise NoMeaningError("cut off")
            digit = digits[place]
            value |= (digit & 31) << shift
            shift, place, more = shift + 5, place + 1, bool(digit & 32)
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


# COCO -------------------------------------------------------------------------------------------


def identity(value: Any) -> int | str | None:
    """Return one spelling of an id: 1, 1.0 and "1" are the same. Raises NoMeaningError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | None):
        raise NoMeaningError("no id")
    if isinstance(value, float):
        return int(value) if value.is_integer() else str(value)
    if isinstance(value, str):
        text = value.strip()
        return int(text) if re.fullmatch(r"-?(0|[1-9][0-9]*)", text) else text
    return value


def _identity_or_nothing(entry: Any, key: str = "id") -> tuple[bool, int | str | None]:
    """Whether an entry is sound, and its id."""
    try:
        return True, identity(entry.get(key))
    except (NoMeaningError, AttributeError):
        return False, None


def read_coco(content: bytes, images: dict[str, Size], one: str | None = None) -> Reading:
    """Read a file of COCO's form.

    images: size of each image file by name. one: the image that the file is of, whatever it says.
    """
    reading = Reading()
    try:
        file = json_of(content)
        if not isinstance(file, dict) or not {"images", "annotations"} <= set(file):
            reading.unknown = one is not None and isinstance(file, dict)
            raise NoMeaningError("no COCO")
        listed, annotations, categories = (
            _entries(file.get(key), reading) for key in ("images", "annotations", "categories")
        )
        if one is not None and len(listed) != 1:
            reading.unknown = True
        names = _category_names(categories, reading)
    except NoMeaningError as error:
        reading.unknown |= isinstance(error, UnclearError)
        reading.missed()
        return reading
    places = _places(listed, images, one, reading)
    repeated = _repeated(annotations)
    numbers: Counter[int | str | None] = Counter()
    for item in annotations:
        sound, image_id = _identity_or_nothing(item, "image_id")
        sound = sound and _identity_or_nothing(item)[0]
        if not sound or image_id not in places or identity(item.get("id")) in repeated:
            reading.missed()
            continue
        number = numbers[image_id]
        numbers[image_id] += 1
        stem, size = places[image_id]
        try:
            segment = _coco_segment(item, number, names, size, reading)
        except NoMeaningError:
            reading.missed()
        else:
            reading.segments.setdefault(stem, []).append(segment)
    return reading


def _entries(value: Any, reading: Reading) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise NoMeaningError("no list")
    if not all(isinstance(entry, dict) for entry in value):
        reading.missed()
    return [entry for entry in value if isinstance(entry, dict)]


def _repeated(entries: list[dict[str, Any]]) -> set[int | str]:
    counts = Counter(_identity_or_nothing(entry)[1] for entry in entries)
    return {value for value, count in counts.items() if count > 1 and value is not None}


def _category_names(
    categories: list[dict[str, Any]], reading: Reading
) -> dict[int | str | None, str]:
    if _repeated(categories):
        raise NoMeaningError("categories that are there twice")
    names = {}
    for category in categories:
        name, (sound, number) = category.get("name"), _identity_or_nothing(category)
        if not sound or "id" not in category or isinstance(name, bool | list | dict):
            raise NoMeaningError("no category")
        names[number] = str(number if name in {None, ""} else name)
    return names


def _places(
    listed: list[dict[str, Any]], images: dict[str, Size], one: str | None, reading: Reading
) -> dict[int | str | None, tuple[str, Size]]:
    """Return the image's id in the data set, and its size, for each id of the file."""
    places: dict[int | str | None, tuple[str, Size]] = {}
    taken = Counter[str]()
    repeated = _repeated(listed)
    for entry in listed:
        sound, number = _identity_or_nothing(entry)
        try:
            named = _file_name(entry)
            name = one or resolved(named, images)
            given = [_side(entry.get(key)) for key in ("height", "width")]
        except NoMeaningError:
            reading.missed()
            continue
        if not sound or number is None or number in repeated or not named:
            reading.missed()
            continue
        taken[name] += 1
        if taken[name] > 1 or (None not in given and tuple(given) != images[name]):
            reading.missed()
        if None in given or tuple(given) == images[name]:
            places[number] = name.rsplit(".", 1)[0], images[name]
    return places


def _file_name(entry: dict[str, Any]) -> str:
    name, url = entry.get("file_name"), entry.get("coco_url")
    if name is None and isinstance(url, str):
        try:
            return "/".join(urlsplit(url).path.split("/")[-2:])
        except ValueError as error:
            raise NoMeaningError("no address") from error
    if not isinstance(name, str) or not (url is None or isinstance(url, str)):
        raise NoMeaningError("no name")
    return name


def resolved(name: str, files: dict[str, Size]) -> str:
    """Return the file of a flat directory that a name means. Raises NoMeaningError."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in {"", "."}]
    if name.replace("\\", "/").startswith("/") or ".." in parts or not parts:
        raise NoMeaningError("beyond the directory")
    by_normal = {unicodedata.normalize("NFC", file): file for file in files}
    unquoted = unquote(parts[-1]).split("/")[-1]
    for form in (parts[-1], re.sub(r"^[0-9a-f]{8}-", "", parts[-1]), unquoted):
        normal = unicodedata.normalize("NFC", form)
        if normal in by_normal:
            return by_normal[normal]
    raise NoMeaningError("no such file")


def _side(value: Any) -> int | None:
    if value is None or value == "":
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError) as error:
        raise NoMeaningError("no size") from error
    if isinstance(value, bool) or not number.is_integer():
        raise NoMeaningError("no size")
    return int(number) if number > 0 else None


def _coco_segment(
    item: dict[str, Any],
    number: int,
    names: dict[int | str | None, str],
    size: Size,
    reading: Reading,
) -> Segment:
    crowd = item.get("iscrowd")
    if isinstance(crowd, str):
        crowd = {"": 0, "0": 0, "1": 1, "false": 0, "true": 1}.get(crowd.strip().lower())
        if crowd is None:
            raise NoMeaningError("no crowd")
    if isinstance(crowd, list | dict) or crowd not in {None, 0, 1}:
        raise NoMeaningError("no crowd")
    category, name = identity(item.get("category_id")), None
    if category is not None:
        name = names.get(category, str(category))
        if names and category not in names:
            reading.missed()
    own = identity(item.get("id"))
    mask = segmentation_mask(item.get("segmentation"), size)
    segment_id = None if own is None else str(own)
    return exactly(mask, name=name, crowd=bool(crowd), segment_id=segment_id)


# LabelMe ----------------------------------------------------------------------------------------


def read_labelme(content: bytes, image_id: str, size: Size) -> Reading:
    """Read LabelMe's file of one image; shapes of one label and group are one segment."""
    reading = Reading({image_id: []})
    try:
        file = json_of(content)
    except NoMeaningError as error:
        file = None
        reading.unknown |= isinstance(error, UnclearError)
    shapes = file.get("shapes") if isinstance(file, dict) else None
    reading.unknown |= isinstance(file, list) or bool(
        isinstance(file, dict) and _OTHER_FORMS & set(file)
    )
    given = [file.get(key) for key in ("imageHeight", "imageWidth")] if shapes is not None else []
    if not isinstance(shapes, list) or not _is_size(given, size):
        reading.missed()
        return reading
    groups: dict[Any, list[tuple[int, Segment]]] = {}
    for number, shape in enumerate(shapes):
        try:
            key, segment = _shape(shape, number, size)
        except NoMeaningError:
            reading.missed()
            continue
        groups.setdefault(key, []).append((number, segment))
    for parts in groups.values():
        first, segment = parts[0]
        inner = np.any([one.inner for _, one in parts], axis=0)
        outer = np.any([one.outer for _, one in parts], axis=0)
        reading.segments[image_id].append(
            Segment(inner, outer, segment.name, segment_id=str(first))
        )
    return reading


def _is_size(given: list[Any], size: Size) -> bool:
    if any(isinstance(side, bool) or not isinstance(side, int | float | None) for side in given):
        return False
    return not all(given) or tuple(given) == size


def _shape(shape: Any, number: int, size: Size) -> tuple[Any, Segment]:
    """Return what marks the group of a shape, and its pixels. Raises NoMeaningError."""
    if not isinstance(shape, dict):
        raise NoMeaningError("no shape")
    label, group, points = shape.get("label"), shape.get("group_id"), shape.get("points", [])
    kind, mask = shape.get("shape_type", "polygon"), shape.get("mask")
    words = [isinstance(value, str | None) for value in (kind, mask)]
    words += [type(value) in {str, int, type(None)} for value in (label, group)]
    if not all(words) or not isinstance(points, list):
        raise NoMeaningError("other types")
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not all(map(is_number, point)):
            raise NoMeaningError("no point")
    key = number if group is None else (repr(label), repr(group))
    segment = _drawn(kind or "polygon", points, mask, size)
    name = None if label is None else str(label)
    return key, Segment(segment.inner, segment.outer, name)


def _drawn(kind: str, points: list[list[float]], mask: str | None, size: Size) -> Segment:
    if kind == "polygon":
        return exactly(polygon_mask([[n for xy in points for n in xy]], size))
    if kind == "rectangle" and len(points) in {2, 4}:
        xs, ys = zip(*points, strict=True)
        corners = [(x, y) for x in (min(xs), max(xs)) for y in (min(ys), max(ys))]
        if len(points) == 4 and {tuple(xy) for xy in points} != set(corners):
            raise NoMeaningError("no rectangle")
        corners[2:] = corners[:1:-1]
        return exactly(polygon_mask([[n for xy in corners for n in xy]], size))
    if kind == "circle" and len(points) == 2:
        return _circle(points, size)
    if kind == "mask" and len(points) == 2 and mask:
        return exactly(_mask_of_text(mask, points[0], size))
    raise NoMeaningError("no area")


def _circle(points: list[list[float]], size: Size) -> Segment:
    """Return a circle that may be a pixel smaller or larger: drawn with corners, or round."""
    (x, y), edge = points
    radius = math.hypot(edge[0] - x, edge[1] - y)
    reach = [place + sign * radius for place in (x, y) for sign in (-1, 1)]
    limits = [side for side in size[::-1] for _ in range(2)]
    if any(not -side <= place <= 2 * side for place, side in zip(reach, limits, strict=True)):
        raise NoMeaningError("far away")
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
    return Segment(distance < radius - 1.1, distance < radius + 1.1)


def _mask_of_text(text: str, corner: list[float], size: Size) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
            part = np.asarray(picture.convert("L")) > 0
    except Exception as error:
        raise NoMeaningError("no PNG") from error
    (x, y), (height, width) = map(round, corner), part.shape
    if x < 0 or y < 0 or x + width > size[1] or y + height > size[0]:
        raise NoMeaningError("beyond the image")
    mask = np.zeros(size, dtype=bool)
    mask[y : y + height, x : x + width] = part
    return mask


# YOLO -------------------------------------------------------------------------------------------


def read_yolo(content: bytes, names: list[str], image_id: str, size: Size) -> Reading:
    """Read YOLO's labels of one image. names: of the classes in order."""
    reading = Reading({image_id: []})
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        reading.missed()
        return reading
    for line in filter(str.strip, lines):
        category, *places = line.split()
        try:
            if not re.fullmatch(r"\d+(\.0)?", category) or len(category) > 99:
                raise NoMeaningError("no class")
            if not all(map(_NUMBER.fullmatch, places)):
                raise NoMeaningError("no number")
            numbers = [float(place) for place in places]
            if any(not -_OVERSHOOT <= place <= 1 + _OVERSHOOT for place in numbers):
                raise NoMeaningError("beyond the image")
            polygon = [place * size[1 - n % 2] for n, place in enumerate(numbers)]
            mask = polygon_mask([polygon], size)
        except NoMeaningError:
            reading.missed()
            continue
        number = int(category.removesuffix(".0"))
        name = names[number] if number < len(names) else str(number)
        reading.segments[image_id].append(exactly(mask, name=name))
    return reading
