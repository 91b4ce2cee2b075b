"""YOLO's segmentation labels: a text file for each image, one polygon per line.

A line is `class x1 y1 x2 y2 ...`, with coordinates from 0 to 1, relative to the image's sides.
Names of classes are in `classes.txt` next to the labels, or in the `data.yaml` of the data set, up
to two directories above, as written by Ultralytics and Roboflow.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items
from mobile_sam.data.formats.text_files import read_lines
from mobile_sam.data.images import ImageFacts, RecordError
from mobile_sam.data.masks import Size, encode_polygons
from mobile_sam.data.record import Record
from mobile_sam.system.directories import CLASS_NAMES

_OVERSHOOT = 0.05  # share of a side by which points may lie outside; polygons are clipped


def read_yolo(record: Record, image: ImageFacts, options: Data) -> Items:
    """Read the lines of a label file; an empty file declares an image without objects.

    Names of classes come from the first of the record's other sources that has any.
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


def _file_stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=64)
def _class_names(file: Path, stamp: tuple[int, int]) -> dict[int, str]:
    """Return the names of classes by number; none for a YAML file without `names`.

    stamp: size and time of the file, so that the cache rereads a changed file.
    Raises RecordError for a file that cannot be read.
    """
    lines = read_lines(file)
    if file.name == CLASS_NAMES:
        return dict(enumerate(lines))
    try:
        content = yaml.safe_load("\n".join(lines))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecordError(f"{file}: not YAML ({str(error).splitlines()[0]}); correct it") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        return {number: str(name) for number, name in enumerate(names)}
    if isinstance(names, dict):
        try:
            return {int(number): str(name) for number, name in names.items()}
        except (TypeError, ValueError):
            raise RecordError(
                f"{file}: `names` has keys that are not class numbers; write `0: name`"
            ) from None
    return {}


def _parse_polygon(line: str, size: Size) -> tuple[int, list[float]]:
    category, *numbers = line.split()
    if len(numbers) == 4:
        raise ValueError(
            "this is a box, not a polygon; export segmentation labels, or make masks from boxes "
            "with `segment --boxes`"
        )
    points = np.array(numbers, dtype=np.float64)
    number = category.removesuffix(".0")
    if not number.isdecimal() or not np.all((points >= -_OVERSHOOT) & (points <= 1 + _OVERSHOOT)):
        raise ValueError("give a class number and coordinates from 0 to 1, relative to the image")
    points[0::2] *= size[1]
    points[1::2] *= size[0]
    return int(number), points.tolist()
