"""Table of annotation formats, and the reading of a record's annotations as run-length codes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items, Note
from mobile_sam.data.formats.coco import (
    coco_images,
    read_coco,
    read_coco_of_one,
    read_sa1b,
)
from mobile_sam.data.formats.geojson import read_geojson
from mobile_sam.data.formats.isat import read_isat
from mobile_sam.data.formats.label_studio import (
    is_label_studio,
    label_studio_images,
    read_label_studio,
)
from mobile_sam.data.formats.labelme import read_labelme
from mobile_sam.data.formats.mask_files import MASK_SUFFIXES, read_label_map, read_mask_files
from mobile_sam.data.formats.text_files import json_bytes, parse_json
from mobile_sam.data.formats.yolo import read_yolo
from mobile_sam.data.images import ImageFacts, RecordError
from mobile_sam.data.index.table import UNLABELLED
from mobile_sam.data.record import ListedImage, Record
from mobile_sam.system.directories import CLASS_NAMES, COLOUR_NAMES, DATA_YAML


@dataclass
class Annotations:
    """Annotations of a record.

    format: a row of `FORMATS` or of `JSON_FORMATS`.
    problems: a sentence for each invalid annotation. notes: one for each that is not a segment.
    """

    format: str
    segments: list[Annotation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_annotations(record: Record, image: ImageFacts, options: Data) -> Annotations:
    """Read all segments of a record. Masks must have the size of the image."""
    annotations = Annotations(record.format)
    try:
        if record.format == JSON:
            annotations.format, items = _read_json_annotations(record, image, options)
        else:
            items = FORMATS[record.format].read(record, image, options)
        for item in items:
            if isinstance(item, Annotation):
                annotations.segments.append(item)
            elif isinstance(item, Note):
                annotations.notes.append(item.text)
            else:
                annotations.problems.append(str(item))
    except RecordError as error:
        annotations.problems.append(str(error))
    return annotations


def _read_json_annotations(record: Record, image: ImageFacts, options: Data) -> tuple[str, Items]:
    """Return the format of a JSON file of one image, and its items."""
    (path,) = record.sources
    text = json_bytes(path)
    keys = _top_level_keys(text, path)
    for name, (required, read) in JSON_FORMATS.items():
        if required <= keys:
            return name.partition(",")[0], read(record, image, options, text)
    content = parse_json(text, path, object, "a JSON file")
    raise RecordError(
        f"{path}: unknown format of annotations ({_describe_content(content)}); supported formats "
        "are COCO, SA-1B, LabelMe, ISAT and GeoJSON (docs/data.md)"
    )


class _TopLevelKeys(msgspec.Struct):
    """Keys that distinguish the formats, with undecoded values."""

    images: msgspec.Raw = msgspec.Raw()
    annotations: msgspec.Raw = msgspec.Raw()
    shapes: msgspec.Raw = msgspec.Raw()
    info: msgspec.Raw = msgspec.Raw()
    objects: msgspec.Raw = msgspec.Raw()
    features: msgspec.Raw = msgspec.Raw()
    geometry: msgspec.Raw = msgspec.Raw()


def _top_level_keys(text: bytes, path: Path) -> set[str]:
    """Return the keys of a JSON object, or of the first object in a list."""
    if text.lstrip()[:1] == b"[":
        items = parse_json(text, path, list[_TopLevelKeys], "a list of objects")
        top = items[0] if items else _TopLevelKeys(geometry=msgspec.Raw(b"null"))
    else:
        top = parse_json(text, path, _TopLevelKeys, "an object")
    return {name for name in top.__struct_fields__ if bytes(getattr(top, name))}


def _describe_content(content: Any) -> str:
    """Describe the top level of a JSON file, for messages."""
    if isinstance(content, dict):
        keys = ", ".join(sorted(content)[:6]) or "no keys"
        return f"an object with {keys if keys.isprintable() else repr(keys)}"
    return f"a list of {len(content)}" if isinstance(content, list) else type(content).__name__


def _no_annotations(record: Record, image: ImageFacts, options: Data) -> Items:
    return iter(())


JSON = "json"  # one JSON file per image; its format is detected when it is read
# Formats with one JSON file per image: a row with the required keys and the reader. The first row
# whose keys are all present is used.
JSON_FORMATS: dict[str, tuple[set[str], Callable[[Record, ImageFacts, Data, bytes], Items]]] = {
    "coco": ({"images", "annotations"}, read_coco_of_one),
    "labelme": ({"shapes"}, read_labelme),
    "isat": ({"info", "objects"}, read_isat),
    "geojson": ({"features"}, read_geojson),
    "geojson, a list": ({"geometry"}, read_geojson),
    "sa1b": ({"annotations"}, read_sa1b),
}


@dataclass(frozen=True)
class Format:
    """Format of annotations.

    read: function that yields the annotations of a record.
    suffixes: suffixes of a file with all annotations of one image, `<masks>/<id><suffix>`.
    class_files: names of files that name the classes, in the directory of the annotations or one of
        the two above.
    matches, list_images: only for a format with one file for all images. `matches` takes the
        content of a JSON file; the first format that matches is used. `list_images` takes the path,
        the content and a list to which it appends problems.
    """

    read: Callable[[Record, ImageFacts, Data], Items]
    suffixes: frozenset[str] = frozenset()
    class_files: tuple[str, ...] = ()
    matches: Callable[[bytes], bool] | None = None
    list_images: Callable[[Path, bytes, list[str]], Iterable[ListedImage]] | None = None


# All other formats.
FORMATS: dict[str, Format] = {
    "mask_directory": Format(read_mask_files),
    "bbbc038": Format(read_mask_files),
    "label_map": Format(read_label_map, MASK_SUFFIXES, (COLOUR_NAMES,)),
    "yolo": Format(read_yolo, frozenset({".txt"}), (CLASS_NAMES, *DATA_YAML)),
    "label_studio": Format(
        read_label_studio, matches=is_label_studio, list_images=label_studio_images
    ),
    "coco": Format(read_coco, matches=lambda _: True, list_images=coco_images),
    "empty": Format(_no_annotations),
    UNLABELLED: Format(_no_annotations),
}
FORMAT_OF_SUFFIX = dict.fromkeys((".json", ".geojson"), JSON) | {
    suffix: name for name, row in FORMATS.items() for suffix in row.suffixes
}
