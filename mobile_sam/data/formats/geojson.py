"""GeoJSON of QuPath: polygons with holes, in pixels of the full image.

A file has `features`, or is a list of features. A feature has a `geometry` (RFC 7946) and
`properties`, whose `classification.name` is the class.
"""

from typing import Any

import msgspec

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items
from mobile_sam.data.formats.text_files import parse_json
from mobile_sam.data.images import ImageFacts, RecordError
from mobile_sam.data.masks import Size, encode_polygons, merge, subtract
from mobile_sam.data.record import Record

_Rings = list[list[list[float]]]  # one polygon: its outline, then its holes


class _Geometry(msgspec.Struct):
    type: str
    coordinates: msgspec.Raw = msgspec.Raw(b"null")


class _Feature(msgspec.Struct):
    geometry: _Geometry | None = None
    properties: dict[str, Any] | None = None
    id: str | int | None = None


class _File(msgspec.Struct):
    features: list[_Feature]


def read_geojson(record: Record, image: ImageFacts, options: Data, text: bytes) -> Items:
    """Read the features of a file. text: its content."""
    (path,) = record.sources
    if text.lstrip()[:1] == b"[":
        features = parse_json(text, path, list[_Feature], "GeoJSON")
    else:
        features = parse_json(text, path, _File, "GeoJSON").features
    for number, feature in enumerate(features):
        try:
            code = _encode_geometry(feature.geometry, image.size)
        except (ValueError, msgspec.DecodeError) as error:
            yield RecordError(f"{path}: features[{number}]: {error}")
            continue
        name = str(number if feature.id is None else feature.id)
        yield Annotation(name, path, code, _class_name(feature.properties or {}))


def _class_name(properties: dict[str, Any]) -> str | None:
    name = properties.get("classification")
    if isinstance(name, dict):
        names = name.get("names")
        name = name.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else None)
    return str(name) if name else None


def _encode_geometry(geometry: _Geometry | None, size: Size) -> bytes:
    kind = "nothing" if geometry is None else geometry.type
    if geometry is None or kind not in {"Polygon", "MultiPolygon"}:
        raise ValueError(f"a {kind!r} has no area; draw a polygon, or remove it")
    if kind == "Polygon":
        polygons = [msgspec.json.decode(geometry.coordinates, type=_Rings)]
    else:
        polygons = msgspec.json.decode(geometry.coordinates, type=list[_Rings])
    return merge([_encode_polygon(rings, size) for rings in polygons], size)


def _encode_polygon(rings: _Rings, size: Size) -> bytes:
    flat = [[n for point in ring for n in point[:2]] for ring in rings]
    if not flat:
        raise ValueError("a polygon has no points; draw it again, or remove it")
    return subtract(
        encode_polygons(flat[:1], size), [encode_polygons([hole], size) for hole in flat[1:]], size
    )
