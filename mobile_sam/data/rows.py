"""Rows of the index: what is read of some images and their annotations."""

from typing import Any, NamedTuple

import pyarrow as pa

from mobile_sam.data.annotations import Annotation, read_annotations
from mobile_sam.data.images import RecordError, check_image
from mobile_sam.data.index import CROWDS, IGNORED, SCHEMA, UNLABELLED
from mobile_sam.data.masks import Size, boxes_and_areas
from mobile_sam.data.records import Record
from mobile_sam.options import Data

# The options that decide what the rows of an image are.
ROW_OPTIONS = {"min_area", "max_objects_per_image", "classes", "ignore"}
# Of what is made of equal files and options; rows of another version are not kept.
ROW_VERSION = 2
NO_SEGMENTS = "images without segments"


class Rows(NamedTuple):
    """Rows of some images in order, without split and number.

    counts: rows of each image. sound: whether each image and all its annotations could be read.
    problems: a sentence for each file and annotation that could not.
    """

    table: pa.Table
    counts: list[int]
    sound: list[bool]
    problems: list[str]


def read_rows(records: list[Record], options: Data) -> Rows:
    """Read images and annotations whole, and keep what the index needs."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    counts, sound = [], []
    problems: list[str] = []
    for record in records:
        count, before = 0, len(problems)
        try:
            digest, size = check_image(record.image_path)
        except RecordError as error:
            problems.append(str(error))
        else:
            annotations, found = read_annotations(record, size)
            problems += found
            image = {
                "image_id": record.image_id,
                "image_path": str(record.image_path),
                "image_digest": digest,
                "height": size[0],
                "width": size[1],
                "format": record.format,
            }
            if annotations:
                count = _add(columns, image, _segments(annotations, size, options))
            elif not found:
                reason = None if record.format == UNLABELLED else NO_SEGMENTS
                count = _add(columns, image, {"left_out": [reason]})
        counts.append(count)
        sound.append(len(problems) == before)
    return Rows(pa.Table.from_pydict(columns, schema=SCHEMA), counts, sound, problems)


def _add(columns: dict[str, list[Any]], image: dict[str, Any], added: dict[str, list[Any]]) -> int:
    """Append rows with the same values of `image` in each; what is not given is null."""
    count = len(added["left_out"])
    for name, values in columns.items():
        values.extend(added[name] if name in added else [image.get(name)] * count)
    return count


def _segments(annotations: list[Annotation], size: Size, options: Data) -> dict[str, list[Any]]:
    """Columns of an image's segments, those in use first."""
    boxes, areas = boxes_and_areas([annotation.rle for annotation in annotations], size)
    reasons = [
        _reason(annotation, area, options)
        for annotation, area in zip(annotations, areas.tolist(), strict=True)
    ]
    if options.max_objects_per_image is not None:
        in_use = [i for i, reason in enumerate(reasons) if reason is None]
        in_use.sort(key=lambda i: -areas[i])
        for i in in_use[options.max_objects_per_image :]:
            reasons[i] = "beyond max_objects_per_image"
    order = sorted(range(len(annotations)), key=lambda i: reasons[i] is not None)
    chosen = [annotations[i] for i in order]
    return {
        "segment_id": [annotation.segment_id for annotation in chosen],
        "class": [annotation.category for annotation in chosen],
        "mask_path": [str(annotation.source) for annotation in chosen],
        "rle": [annotation.rle for annotation in chosen],
        **dict(zip(("x0", "y0", "x1", "y1"), boxes[order].T.tolist(), strict=True)),
        "area": areas[order].tolist(),
        "left_out": [reasons[i] for i in order],
    }


def _reason(annotation: Annotation, area: int, options: Data) -> str | None:
    """Why a segment is not used, or None."""
    name = annotation.value if annotation.category is None else annotation.category
    if annotation.crowd:
        return CROWDS
    if name in options.ignore:
        return IGNORED
    if options.classes is not None and name not in options.classes:
        return "of other classes"
    if area == 0:
        return "without a pixel"
    return "smaller than min_area" if area < options.min_area else None
