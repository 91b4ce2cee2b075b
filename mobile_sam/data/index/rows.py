"""Rows of the index, read from images and their annotations."""

from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from mobile_sam.config.sections import Data, ImageOptions, MaskOptions
from mobile_sam.data.formats.annotation import Annotation
from mobile_sam.data.formats.registry import Annotations, read_annotations
from mobile_sam.data.images import (
    ImageFacts,
    RecordError,
    apply_orientation,
    check_image,
    read_unoriented,
)
from mobile_sam.data.index.table import CROWDS, IGNORED, SCHEMA, UNLABELLED
from mobile_sam.data.index.tile_rows import Tiling, rows_of_tiles
from mobile_sam.data.masks import Size, boxes_and_areas, decode
from mobile_sam.data.record import Record
from mobile_sam.data.tiles import parse_tile_id
from mobile_sam.data.windows import open_in_place

# The options that the rows of an image depend on.
ROW_OPTIONS = {
    *("min_area", "max_objects_per_image", "classes", "ignore"),
    *ImageOptions.model_fields,
    *MaskOptions.model_fields,
}
# Version of the rows that equal files and options give; cached rows of another one are not used.
ROW_VERSION = 3
NO_SEGMENTS = "images without segments"
_MOST_PIXELS = 1 << 32  # pycocotools counts pixels in 32 bits
# Masks match the unturned image if its edges under theirs are so many times stronger.
_EDGE_STRENGTH_RATIO = 1.5


class Rows(NamedTuple):
    """Rows of several images in order, without split and image number.

    counts: rows of each image.
    sound: whether reading each image and its annotations gave neither problems nor notes.
    problems: a sentence for each file and annotation that could not be read.
    notes: a sentence for each file that was read but should be checked.
    """

    table: pa.Table
    counts: list[int]
    sound: list[bool]
    problems: list[str]
    notes: list[str]


def read_rows(records: list[Record], options: Data, tiling: Tiling | None = None) -> Rows:
    """Read whole images and their annotations; return their rows.

    tiling: how images that are larger than a tile are cut; None: they are not.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    counts, sound = [], []
    problems: list[str] = []
    notes: list[str] = []
    for record in records:
        count, before = 0, len(problems) + len(notes)
        try:
            facts = _check_image(record, options, tiling)
        except RecordError as error:
            problems.append(str(error))
        else:
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
            segments = _segment_columns(read.segments, facts.size, options)
            large = tiling is not None and tiling.is_large(facts.size)
            if tiling is not None and large and (read.segments or not read.problems):
                try:
                    for tile, added in list(rows_of_tiles(image, segments, options, tiling)):
                        count += _append_rows(columns, tile, added)
                except RecordError as error:
                    problems.append(str(error))
            elif read.segments and not large:
                count = _append_rows(columns, image, segments)
            if not count and not read.problems:
                reason = None if record.format == UNLABELLED else NO_SEGMENTS
                count = _append_rows(columns, image, {"left_out": [reason]})
        counts.append(count)
        sound.append(len(problems) + len(notes) == before)
    return Rows(pa.Table.from_pydict(columns, schema=SCHEMA), counts, sound, problems, notes)


def _check_image(record: Record, options: Data, tiling: Tiling | None) -> ImageFacts:
    """Return the facts about an image; of a large one that is read in windows, without a digest."""
    if tiling is not None:
        if parse_tile_id(record.image_id, (0, 0)) is not None:
            raise RecordError(
                f"{record.image_path}: with data.tile, names that end like {record.image_id!r} are "
                "those of tiles; rename the image"
            )
        image = open_in_place(record.image_path, options)
        if image is not None and tiling.is_large(size := image.size):
            if size[0] * size[1] >= _MOST_PIXELS:
                raise RecordError(
                    f"{record.image_path}: {size[1]}x{size[0]} pixels are too many for run-length "
                    "codes of masks, which hold 4,294,967,295; cut the image into parts"
                )
            return ImageFacts("", size, size, orientation=1)
    return check_image(record.image_path, options)


def _check_orientation(record: Record, facts: ImageFacts, read: Annotations, options: Data) -> None:
    """Add a note for an image whose masks have the right size before and after EXIF orientation.

    Add a problem instead if the edges of the masks match those of the unturned image.
    """
    fits_both = facts.orientation != 1 and facts.size == facts.stored_size
    if not (fits_both and read.segments) or options.exif_orientation is not None:
        return
    message = f"{record.image_path}: EXIF orientation {facts.orientation} turns the image"
    if _masks_fit_unoriented(record, facts, read, options):
        read.problems.append(
            f"{message}, but the masks match the unturned image; set data.exif_orientation to "
            "'ignore', or to 'apply' if the masks are right"
        )
    else:
        read.notes.append(f"{message}; the masks would also fit the unturned image")


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
    """Append rows that share the values of `image`; other columns are null. Return their number.

    added: values of further columns, one for each row; `left_out` is always given.
    """
    count = len(added["left_out"])
    for name, values in columns.items():
        values.extend(added[name] if name in added else [image.get(name)] * count)
    return count


def _segment_columns(
    annotations: list[Annotation], size: Size, options: Data
) -> dict[str, list[Any]]:
    """Return the columns of an image's segments, those in use first."""
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
    ordered = [annotations[i] for i in order]
    return {
        "segment_id": [annotation.segment_id for annotation in ordered],
        "class": [annotation.category for annotation in ordered],
        "mask_path": [str(annotation.source) for annotation in ordered],
        "rle": [annotation.rle for annotation in ordered],
        **dict(zip(("x0", "y0", "x1", "y1"), boxes[order].T.tolist(), strict=True)),
        "area": areas[order].tolist(),
        "left_out": [reasons[i] for i in order],
    }


def _left_out_reason(annotation: Annotation, area: int, options: Data) -> str | None:
    """Return why a segment is not used, or None if it is."""
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
