"""Rows of the index: what is read of some images and their annotations."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from mobile_sam.data.annotations import Annotation, read_annotations
from mobile_sam.data.images import RecordError, check_image
from mobile_sam.data.index import SCHEMA
from mobile_sam.data.masks import Size, boxes_and_areas
from mobile_sam.data.records import Record
from mobile_sam.options import Data

# The options that decide what the rows of an image are.
ROW_OPTIONS = {"min_area", "max_objects_per_image", "classes", "ignore"}
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
    rows: list[dict[str, Any]] = []
    counts, sound = [], []
    problems: list[str] = []
    for record in records:
        before, problems_before = len(rows), len(problems)
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
            rows += [image | row for row in _segments(annotations, size, options)]
            if not annotations and not found:
                rows.append(image | {"left_out": NO_SEGMENTS})
        counts.append(len(rows) - before)
        sound.append(len(problems) == problems_before)
    return Rows(pa.Table.from_pylist(rows, SCHEMA), counts, sound, problems)


def _segments(annotations: list[Annotation], size: Size, options: Data) -> Iterator[dict[str, Any]]:
    """Rows of an image's segments, those in use first."""
    boxes, areas = boxes_and_areas([annotation.rle for annotation in annotations], size)
    reasons = [
        _reason(annotation, int(area), options)
        for annotation, area in zip(annotations, areas, strict=True)
    ]
    if options.max_objects_per_image is not None:
        in_use = [i for i, reason in enumerate(reasons) if reason is None]
        in_use.sort(key=lambda i: -areas[i])
        for i in in_use[options.max_objects_per_image :]:
            reasons[i] = "beyond max_objects_per_image"
    for i in sorted(range(len(annotations)), key=lambda i: reasons[i] is not None):
        annotation = annotations[i]
        x0, y0, x1, y1 = boxes[i].tolist()
        yield {
            "segment_id": annotation.segment_id,
            "class": annotation.category,
            "mask_path": str(annotation.source),
            "rle": annotation.rle,
            **{"x0": x0, "y0": y0, "x1": x1, "y1": y1},
            "area": int(areas[i]),
            "left_out": reasons[i],
        }


def _reason(annotation: Annotation, area: int, options: Data) -> str | None:
    """Why a segment is not used, or None."""
    name = annotation.value if annotation.category is None else annotation.category
    if annotation.crowd:
        return "crowds"
    if name in options.ignore or (options.classes is not None and name not in options.classes):
        return "of other classes"
    if area == 0:
        return "without a pixel"
    return "smaller than min_area" if area < options.min_area else None
