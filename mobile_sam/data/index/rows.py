"""Rows of the index: what is read of some images and their annotations."""

from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from mobile_sam.config.sections import Data, ImageOptions, MaskOptions
from mobile_sam.data.formats.annotation import Annotation
from mobile_sam.data.formats.registry import Annotations, read_annotations
from mobile_sam.data.images import (
    NO_HASH,
    ImageFacts,
    RecordError,
    apply_orientation,
    check_image,
    read_unoriented,
)
from mobile_sam.data.index.table import CROWDS, IGNORED, SCHEMA, UNLABELLED
from mobile_sam.data.masks import Size, boxes_and_areas, decode
from mobile_sam.data.record import Record

# The options that decide what the rows of an image are.
ROW_OPTIONS = {
    *("min_area", "max_objects_per_image", "classes", "ignore"),
    *ImageOptions.model_fields,
    *MaskOptions.model_fields,
}
# Of what is made of equal files and options; rows of another version are not kept.
ROW_VERSION = 3
NO_SEGMENTS = "images without segments"
_EDGE_STRENGTH_RATIO = 1.5  # times stronger edges under the edges of masks


class Rows(NamedTuple):
    """Rows of some images in order, without split and number.

    counts: rows of each image. looks: perceptual hash of each, 0 where it could not be read.
    sound: whether each image and all its annotations could be read without a word.
    problems: a sentence for each file and annotation that could not.
    notes: a sentence for each that was read, and should be looked at.
    """

    table: pa.Table
    counts: list[int]
    looks: list[int]
    sound: list[bool]
    problems: list[str]
    notes: list[str]


def read_rows(records: list[Record], options: Data) -> Rows:
    """Read images and annotations whole, and keep what the index needs."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    counts, looks, sound = [], [], []
    problems: list[str] = []
    notes: list[str] = []
    for record in records:
        count, look, before = 0, NO_HASH, len(problems) + len(notes)
        try:
            facts = check_image(record.image_path, options)
        except RecordError as error:
            problems.append(str(error))
        else:
            look = facts.look
            read = read_annotations(record, facts, options)
            _check_orientation(record, facts, read, options)
            problems += read.problems
            notes += read.notes
            image = {
                "image_id": record.image_id,
                "image_path": str(record.image_path),
                "image_digest": facts.digest,
                "height": facts.size[0],
                "width": facts.size[1],
                "format": read.format,
            }
            if read.segments:
                count = _append_rows(
                    columns, image, _segment_columns(read.segments, facts.size, options)
                )
            elif not read.problems:
                reason = None if record.format == UNLABELLED else NO_SEGMENTS
                count = _append_rows(columns, image, {"left_out": [reason]})
        counts.append(count)
        looks.append(look)
        sound.append(len(problems) + len(notes) == before)
    return Rows(pa.Table.from_pydict(columns, schema=SCHEMA), counts, looks, sound, problems, notes)


def _check_orientation(record: Record, facts: ImageFacts, read: Annotations, options: Data) -> None:
    """Name a photograph whose masks fit before and after its EXIF orientation is applied.

    Where their edges lie on those of the unturned image, that is a problem.
    """
    fits_both = facts.orientation != 1 and facts.size == facts.stored_size
    if not (fits_both and read.segments) or options.exif_orientation is not None:
        return
    told = f"{record.image_path}: EXIF orientation {facts.orientation} turns the image"
    if _masks_fit_unoriented(record, facts, read, options):
        read.problems.append(
            f"{told}, and the masks lie on the unturned one; set data.exif_orientation to "
            "'ignore', or to 'apply' if the masks are right"
        )
    else:
        read.notes.append(f"{told}; its masks would fit unturned as well")


def _masks_fit_unoriented(
    record: Record, facts: ImageFacts, read: Annotations, options: Data
) -> bool:
    """Return whether mask edges match the edges of the stored image, not the upright one."""
    mask = np.zeros(facts.size, dtype=np.uint8)
    for segment in read.segments:
        mask |= decode(segment.rle, facts.size).astype(np.uint8)
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    stored = read_unoriented(record.image_path, options)
    strengths = []
    for image in (stored, apply_orientation(stored, facts.orientation)):
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        slopes = [cv2.Sobel(grey, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1))]
        strength = np.hypot(*slopes)
        strengths.append(float(strength[edge].mean() if edge.any() else 0))
    return strengths[0] > _EDGE_STRENGTH_RATIO * strengths[1]


def _append_rows(
    columns: dict[str, list[Any]], image: dict[str, Any], added: dict[str, list[Any]]
) -> int:
    """Append rows with the same values of `image` in each; what is not given is null."""
    count = len(added["left_out"])
    for name, values in columns.items():
        values.extend(added[name] if name in added else [image.get(name)] * count)
    return count


def _segment_columns(
    annotations: list[Annotation], size: Size, options: Data
) -> dict[str, list[Any]]:
    """Columns of an image's segments, those in use first."""
    boxes, areas = boxes_and_areas([annotation.rle for annotation in annotations], size)
    reasons = [
        _left_out_reason(annotation, area, options)
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


def _left_out_reason(annotation: Annotation, area: int, options: Data) -> str | None:
    """Why a segment is not used, or None."""
    names = {annotation.value, annotation.category}
    if annotation.crowd and options.crowds == "ignore":
        return CROWDS
    if names & set(options.ignore):
        return IGNORED
    if options.classes is not None and not names & set(options.classes):
        return "of other classes"
    if area == 0:
        return "without a pixel"
    return "smaller than min_area" if area < options.min_area else None
