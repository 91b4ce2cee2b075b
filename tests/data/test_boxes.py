"""Boxes of detectors and annotation tools: what is wrong with them is said before a model runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.data.formats.boxes import BoxFile, ImageBoxes, InputBox, read_boxes
from mobile_sam.data.index.table import DatasetError
from mobile_sam.data.record import Record

RECORDS = [Record(name, Path(f"{name}.png"), "unlabelled", ()) for name in ("a", "below/b")]
IMAGES = [{"id": "x", "file_name": "a.jpg", "width": 80, "height": 60}]


def read(path: Path) -> BoxFile:
    return read_boxes(path, RECORDS)


def coco(path: Path, *annotations: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"images": IMAGES, "annotations": annotations, **more}))
    return path


def test_corners_are_those_of_the_file(tmp_path: Path) -> None:
    found = read(coco(tmp_path / "boxes.json", {"image_id": "x", "bbox": [1, 2, 30, 40]}))
    assert found == BoxFile({1: "1"}, {"a": ImageBoxes((InputBox((1, 2, 31, 42), 1),), (60, 80))})


def test_parts_become_pixels() -> None:
    boxes = ImageBoxes((InputBox((0.25, 0.5, 0.75, 1), 4, 0.5),))
    assert boxes.in_pixels((60, 80)) == [InputBox((20, 30, 60, 60), 4, 0.5)]


@pytest.mark.parametrize("corners", [(80, 0, 90, 10), (0, 60, 9, 70), (-9, 0, 0, 9)])
def test_a_box_outside_of_the_image_is_an_error(corners: tuple[float, ...]) -> None:
    x0, y0, x1, y1 = corners
    boxes = ImageBoxes((InputBox((x0, y0, x1, y1), 1),), (60, 80))
    with pytest.raises(ValueError, match="lies outside of the image, which has 80x60 pixels"):
        boxes.in_pixels((60, 80))


@pytest.mark.parametrize(
    ("annotation", "sentence"),
    [
        ({"image_id": "x", "bbox": [1, 2, 0, 4]}, r"annotations\[0\]: bbox .* has no area"),
        ({"image_id": "y", "bbox": [1, 2, 3, 4]}, "image_id 'y' matches no image"),
        ({"image_id": "x", "bbox": [1, 2, 3]}, "write images: "),
        (
            {"image_id": "x", "bbox": [1, 2, 3, 4], "category_id": 2},
            "category_id 2 matches no category",
        ),
    ],
)
def test_faults_of_a_coco_file(tmp_path: Path, annotation: dict[str, Any], sentence: str) -> None:
    path = coco(tmp_path / "boxes.json", annotation, categories=[{"id": 1, "name": "cell"}])
    with pytest.raises(DatasetError, match=sentence):
        read(path)


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = coco(tmp_path / "boxes.json", {"image_id": "x", "bbox": [1, 2, 3, 4]})
    with pytest.raises(DatasetError, match=r"there is no image 'a\.jpg'"):
        read_boxes(path, RECORDS[1:])


@pytest.mark.parametrize("names", [{}, {"file_name": ""}, {"coco_url": "http://[a/b.png"}])
def test_an_image_without_a_name_is_named(names: dict[str, str], tmp_path: Path) -> None:
    images = [{"id": 3, "width": 80, "height": 60} | names]
    path = coco(tmp_path / "boxes.json", images=images)
    with pytest.raises(DatasetError, match="image 3 has no file_name; add it"):
        read(path)


@pytest.mark.parametrize(
    "line",
    [
        "1 0.5 0.5 0.5",
        "-1 0.5 0.5 0.5 0.5",
        "x 0.5 0.5 0.5 0.5",
        "1 0.5 0.5 1.5 0.5",
        "1 0.5 0.5 0 0.5",
        "1 0 0 1 1 1 0",
    ],
)
def test_a_line_that_is_no_box_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.txt").write_text(f"0 0.5 0.5 0.5 0.5\n{line}\n")
    with pytest.raises(DatasetError, match=r"a\.txt: line 2: .* is not a box"):
        read(tmp_path)


def test_labels_without_an_image_are_named(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(DatasetError, match="there is no image b"):
        read(tmp_path)


def test_no_box_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no box for any of the 2 images"):
        read(tmp_path)
    with pytest.raises(DatasetError, match="there is no box for any of the 2 images"):
        read(coco(tmp_path / "boxes.json"))
