"""What annotation tools export is read: a test for each row of the table in docs/data.md."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import DatasetError
from tests.helpers.drawn import (
    AREAS,
    HEIGHT,
    SQUARES,
    WIDTH,
    Seen,
    areas,
    draw_image,
    dump,
    label_map,
    notes,
    points,
    read,
    save,
    square,
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_image(tmp_path / "images")


def masks_of(images: Path) -> Path:
    return images.parent / "masks"


def classes(seen: list[Seen]) -> list[tuple[int, str | None]]:
    return [(item.area, item.category) for item in seen]


def labelme(*shapes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "5.4.1", "flags": {}, "shapes": list(shapes), **size, **changes}


def shape(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "label": "cell",
        "points": points(number),
        "shape_type": "polygon",
        "group_id": None,
        "flags": {},
        **changes,
    }


def test_labelme_polygons(images: Path) -> None:
    dump(masks_of(images) / "a.json", labelme(*map(shape, range(3))))
    assert classes(read(images, masks_of(images))["a"]) == [(area, "cell") for area in AREAS]


def test_labelme_beside_the_image(images: Path) -> None:
    dump(images / "a.json", labelme(*map(shape, range(3))))
    assert areas(images, images) == AREAS


def test_labelme_groups_are_parts_of_one_object(images: Path) -> None:
    parts = [shape(0, group_id=7), shape(1, group_id=7), shape(2, group_id=7, label="other")]
    dump(masks_of(images) / "a.json", labelme(*parts))
    assert classes(read(images, masks_of(images))["a"]) == [(1120, "cell"), (540, "other")]


def test_labelme_rectangles_circles_and_masks(images: Path) -> None:
    x0, y0, x1, y1 = SQUARES[2]
    content = io.BytesIO()
    Image.fromarray(square(2)[y0:y1, x0:x1]).save(content, "PNG")
    shapes = [
        shape(0, shape_type="rectangle", points=[[28, 28], [8, 8]]),
        shape(1, shape_type="circle", points=[[50, 30], [60, 30]]),
        shape(
            2,
            shape_type="mask",
            points=[[x0, y0], [x1 - 1, y1 - 1]],
            mask=base64.b64encode(content.getvalue()).decode(),
        ),
    ]
    dump(masks_of(images) / "a.json", labelme(*shapes))
    found = areas(images, masks_of(images))
    assert found[0] == AREAS[0]
    assert abs(found[1] - np.pi * 100) < 12
    assert found[2] == AREAS[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (labelme(shape(0, shape_type="line", points=[[1, 1], [5, 5]])), "shapes.0.: a 'line' of 2"),
        (labelme(shape(0, points=[[1, 1]])), r"shapes\[0\]: a polygon has 2 coordinates"),
        (
            labelme(shape(0, shape_type="mask", points=[[1, 1], [5, 5]], mask="?")),
            "not a base64 PNG",
        ),
        (labelme(shape(0), imageHeight=10), "annotations are of 96x10 pixels, its image 96x64"),
        ({"shapes": 5}, r"not a LabelMe file \(\$\.shapes"),
        ({"hello": 1}, "unknown format of annotations .an object with hello"),
    ],
)
def test_labelme_that_cannot_be_read_is_named(content: Any, message: str, images: Path) -> None:
    dump(masks_of(images) / "a.json", content)
    with pytest.raises(DatasetError, match=rf"a\.json: .*{message}"):
        read(images, masks_of(images))


def isat(*objects: dict[str, Any]) -> dict[str, Any]:
    info = {"description": "ISAT", "name": "a.png", "width": WIDTH, "height": HEIGHT, "depth": 3}
    return {"info": info, "objects": list(objects)}


def isat_object(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "category": "cell",
        "group": number + 1,
        "segmentation": points(number),
        "layer": 1.0,
        "iscrowd": False,
        **changes,
    }


def test_isat_objects_groups_and_holes(images: Path) -> None:
    hole = isat_object(
        0,
        category="__background__",
        layer=2.0,
        segmentation=[[10, 10], [14, 10], [14, 14], [10, 14]],
    )
    content = isat(isat_object(0), isat_object(1, group=2), isat_object(2, group=2), hole)
    dump(masks_of(images) / "a.json", content)
    assert classes(read(images, masks_of(images))["a"]) == [(400 - 16, "cell"), (1260, "cell")]


def feature(number: int, **changes: Any) -> dict[str, Any]:
    ring = [*points(number), points(number)[0]]
    return {
        "type": "Feature",
        "id": f"uuid-{number}",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
        **changes,
    }


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("name", ["a.geojson", "a.json"])
def test_geojson_of_qupath(name: str, as_list: bool, images: Path) -> None:
    features = [feature(n) for n in range(3)]
    content = features if as_list else {"type": "FeatureCollection", "features": features}
    dump(masks_of(images) / name, content)
    seen = read(images, masks_of(images))["a"]
    assert classes(seen) == [(area, "Tumor") for area in AREAS]
    assert [item.name for item in seen] == ["uuid-0", "uuid-1", "uuid-2"]


def test_geojson_classes_may_be_lists_of_any_values(images: Path) -> None:
    properties = {"classification": {"names": ["Tumor", 2]}}
    dump(masks_of(images) / "a.geojson", [feature(0, properties=properties)])
    assert classes(read(images, masks_of(images))["a"]) == [(AREAS[0], "Tumor: 2")]


def test_geojson_holes_and_parts(images: Path) -> None:
    hole = [[10, 10], [14, 10], [14, 14], [10, 14], [10, 10]]
    parts = {"type": "MultiPolygon", "coordinates": [[points(0), hole], [points(1)]]}
    dump(masks_of(images) / "a.geojson", [feature(0, geometry=parts, properties=None)])
    assert areas(images, masks_of(images)) == [400 - 16 + 720]


def test_geojson_without_an_area_is_named(images: Path) -> None:
    point = {"type": "Point", "coordinates": [5, 5]}
    dump(masks_of(images) / "a.geojson", [feature(0), feature(1, geometry=point)])
    with pytest.raises(DatasetError, match=r"features\[1\]: a 'Point' has no area"):
        read(images, masks_of(images))


def packed(mask: np.ndarray) -> list[int]:
    """A brush of Label Studio: RGBA pixels, packed as literal values and runs by turns."""
    rgba = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    bits = f"{rgba.size:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    starts = np.r_[0, np.flatnonzero(np.diff(rgba)) + 1]
    for start, end in zip(starts, [*starts[1:], rgba.size], strict=True):
        if end - start <= 4:
            values = "".join(f"{value:08b}" for value in rgba[start:end])
            bits += f"0{0:02b}{end - start - 1:03b}{values}"
        else:
            bits += f"1{3:02b}{end - start - 1:016b}{rgba[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)]


def result(kind: str, value: dict[str, Any], **changes: Any) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"type": kind, "value": value, "id": kind, **size, **changes}


def percent(number: int) -> list[list[float]]:
    return (np.array(points(number)) / (WIDTH, HEIGHT) * 100).tolist()


def task(*results: dict[str, Any], image: str = "/data/upload/4/0a1b2c3d-a.png") -> dict[str, Any]:
    return {"id": 7, "data": {"image": image}, "annotations": [{"result": list(results)}]}


LOCAL = "/data/local-files/?d=images/a.png"


@pytest.mark.parametrize("image", ["/data/upload/4/0a1b2c3d-a.png", LOCAL, "s3://bucket/x/a.png"])
def test_label_studio_polygons_and_brushes(image: str, images: Path) -> None:
    polygons = result("polygonlabels", {"points": percent(0), "polygonlabels": ["cell"]})
    brush = result("brushlabels", {"rle": packed(square(1)), "brushlabels": ["nucleus"]})
    file = dump(images.parent / "export.json", [task(polygons, brush, image=image)])
    seen = read(images, file)["a"]
    assert [(item.name, *pair) for item, pair in zip(seen, classes(seen), strict=True)] == [
        ("polygonlabels", 400, "cell"),
        ("brushlabels", 720, "nucleus"),
    ]
    assert np.array_equal(seen[1].mask, square(1))


@pytest.mark.parametrize("labels", [[], "cell", {"name": "cell"}])
def test_label_studio_labels_that_are_no_list_are_no_class(labels: Any, images: Path) -> None:
    drawn = result("polygonlabels", {"points": percent(0), "polygonlabels": labels})
    file = dump(images.parent / "export.json", [task(drawn)])
    assert classes(read(images, file)["a"]) == [(AREAS[0], None)]


def test_label_studio_ellipses_and_key_points(images: Path) -> None:
    ellipse = result("ellipselabels", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20})
    point = result("keypointlabels", {"x": 5, "y": 5})
    file = dump(images.parent / "export.json", [task(ellipse, point)])
    (area,) = areas(images, file)
    assert abs(area - np.pi * 9.6 * 12.8) < 15
    assert "skipped, because a 'keypointlabels' is not a segment" in notes(images)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (task(result("polygonlabels", {})), "`value` has no 'points'"),
        (task(result("polygonlabels", {"points": percent(0)}, image_rotation=90)), "rotated by 90"),
        (task(result("brushlabels", {"rle": packed(square(0))[:20]})), "the brush is truncated"),
        (task(result("brushlabels", {"rle": packed(square(0)[:9])})), "the brush has 864 pixels"),
        (task(image="no image"), "task 7: `data` has no image file"),
        (task(image="http://[a/b.png"), "task 7: `data` has no image file"),
        (task(image=f"{'x' * 300}.png"), r"there is no image .*x\.png; add it there"),
        (task() | {"annotations": [{"result": []}] * 2}, "task 7: 2 annotations of one image"),
        ({"id": 3, "data": 5, "annotations": []}, "not a Label Studio export"),
    ],
)
def test_label_studio_that_cannot_be_read_is_named(
    changed: Any, message: str, images: Path
) -> None:
    with pytest.raises(DatasetError, match=message):
        read(images, dump(images.parent / "export.json", [changed]))


def yolo(number: int, name: str = "0") -> str:
    places = (np.array(points(number)) / (WIDTH, HEIGHT)).ravel()
    return " ".join([name, *(f"{place:.6f}" for place in places)])


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


YAMLS = {
    "Ultralytics": ("dataset.yaml", "path: ../data\nnames:\n  0: cell\n  1: nucleus\n"),
    "Roboflow": ("data.yaml", "train: ../train/images\nnc: 2\nnames: ['cell', 'nucleus']\n"),
}


@pytest.mark.parametrize("up", [0, 1, 2])
@pytest.mark.parametrize("name", YAMLS)
def test_yolo_with_the_names_of_its_data_yaml(name: str, up: int, tmp_path: Path) -> None:
    images = draw_image(tmp_path / "data" / "images" / "train")
    labels = write(tmp_path / "data" / "labels" / "train" / "a.txt", yolo(0) + "\n" + yolo(1, "1"))
    file, text = YAMLS[name]
    write([labels.parent, *labels.parents][up + (up > 0)] / file, text)
    seen = read(images, labels.parent)["a"]
    assert classes(seen) == [(400, "cell"), (720, "nucleus")]


def test_yolo_reads_names_again_when_they_change(tmp_path: Path) -> None:
    images = draw_image(tmp_path / "images")
    labels = write(tmp_path / "labels" / "a.txt", yolo(0)).parent
    kept = tmp_path / "kept.parquet"
    found = []
    for name in ("cell", "nucleus"):
        write(tmp_path / "data.yaml", f"names: [{name}]\n")
        index_dataset({"val": (images, labels)}, tmp_path / "index.parquet", kept=kept)
        found += pq.read_table(tmp_path / "index.parquet")["class"].to_pylist()
    assert found == ["cell", "nucleus"]


def test_names_of_classes_without_numbers_are_named(images: Path) -> None:
    labels = write(masks_of(images) / "a.txt", yolo(0)).parent
    write(labels / "data.yaml", "names: {cell: 0}\n")
    with pytest.raises(DatasetError, match=r"data\.yaml: `names` has keys that are not class num"):
        read(images, labels)
    write(labels / "data.yaml", "date: 2026-99-99\n")
    with pytest.raises(DatasetError, match=r"data\.yaml: not YAML \(month must be"):
        read(images, labels)


def test_yolo_background_images_and_slight_overshoot(images: Path) -> None:
    draw_image(images, "b.png")
    labels = masks_of(images)
    write(labels / "a.txt", "0 -0.02 -0.02 1.03 -0.02 1.03 1.03 -0.02 1.03\n")
    write(labels / "b.txt", "")
    seen = read(images, labels)
    assert [item.area for item in seen["a"]] == [WIDTH * HEIGHT]
    assert seen["b"] == []


def test_yolo_in_pixels_is_named(images: Path) -> None:
    write(masks_of(images) / "a.txt", "0 8 8 28 8 28 28\n")
    with pytest.raises(DatasetError, match=r"a\.txt: line 1: give a class number and coordinates"):
        read(images, masks_of(images))


@pytest.mark.parametrize("ending", ["_mask", "_masks", "_cp_masks", "_label", "_seg"])
@pytest.mark.parametrize("together", [False, True])
def test_endings_of_mask_files(ending: str, together: bool, tmp_path: Path) -> None:
    images = save(tmp_path / "images" / "a.tif", Image.new("RGB", (WIDTH, HEIGHT))).parent
    masks = images if together else masks_of(images)
    save(masks / f"a{ending}.tif", label_map(np.uint16))
    assert areas(images, masks) == AREAS
    assert f"without {ending!r} in the name" in notes(images)


def test_names_of_masks_with_the_suffix_of_the_image(images: Path) -> None:
    save(masks_of(images) / "a.png.png", label_map())
    assert areas(images, masks_of(images)) == AREAS


def test_an_image_whose_name_ends_like_a_mask_is_an_image(tmp_path: Path) -> None:
    images = draw_image(tmp_path / "images", "a_mask.png")
    save(masks_of(images) / "a_mask.png", label_map())
    assert [item.area for item in read(images, masks_of(images))["a_mask"]] == AREAS
