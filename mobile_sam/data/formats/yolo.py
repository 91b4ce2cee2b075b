"""YOLO's segmentation labels: a text file for each image, one polygon a line.

`class x1 y1 x2 y2 ...`, in parts of the image's sides. Names of classes are in `classes.txt` beside
the labels, or in the `data.yaml` of the data set, up to two directories above, as Ultralytics and
Roboflow write it.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items
from mobile_sam.data.images import ImageFacts, RecordError
from mobile_sam.data.masks import Size, encode_polygons
from mobile_sam.data.record import Record
from mobile_sam.system.directories import CLASS_NAMES

_OVERSHOOT = 0.05  # of a side, that tools write beyond the image; it is cut off at the border


def read_yolo(record: Record, image: ImageFacts, options: Data) -> Items:
    """Read the lines of a label file; an empty file says that there is no object.

    The record's other sources name the classes; the first one that has names counts.
    """
    path, *naming = record.sources
    names = next((n for file in naming if (n := _class_names(file, _file_stamp(file)))), {})
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            category, polygon = _parse_polygon(line, image.size)
            rle = encode_polygons([polygon], image.size)
        except ValueError as error:
            yield RecordError(f"{path}: line {number}: {error}")
        else:
            name = names.get(category, str(category))
            yield Annotation(str(number), path, rle, category=name)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file. Raises RecordError when it cannot be read."""
    try:
        # Decoded at once: a part of a byte order mark alone is an error then, and not dropped.
        return path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise RecordError(f"{path}: the text cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: the text cannot be read ({error}); save it as UTF-8") from error


def _file_stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=64)
def _class_names(file: Path, stamp: tuple[int, int]) -> dict[int, str]:
    """The names of classes by number; none in a YAML file without `names`.

    stamp: of the file, which is read again when it has changed.
    Raises RecordError for a file that cannot be read.
    """
    if file.name == CLASS_NAMES:
        return dict(enumerate(read_lines(file)))
    return _read_yaml_names(file)


def _read_yaml_names(file: Path) -> dict[int, str]:
    """The `names` of a data.yaml, a list or a mapping; empty for a file without."""
    try:
        content = yaml.safe_load("\n".join(read_lines(file)))
    except yaml.YAMLError as error:
        raise RecordError(f"{file}: not YAML ({str(error).splitlines()[0]})") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    if isinstance(names, dict):
        return {int(number): str(name) for number, name in names.items()}
    return {}


def _parse_polygon(line: str, size: Size) -> tuple[int, list[float]]:
    category, *numbers = line.split()
    if len(numbers) == 4:
        raise ValueError(
            "this is a box, not a polygon; export segmentation labels, or make masks of the boxes "
            "with segment --boxes"
        )
    places = np.array(numbers, dtype=np.float64)
    number = category.removesuffix(".0")
    if not number.isdecimal() or not np.all((places >= -_OVERSHOOT) & (places <= 1 + _OVERSHOOT)):
        raise ValueError("give a class number and coordinates from 0 to 1, relative to the image")
    places[0::2] *= size[1]
    places[1::2] *= size[0]
    return int(number), places.tolist()
