"""The verb `segment --boxes`: masks of the boxes of a detector or an annotation tool."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobile_sam.data.images import read_image
from mobile_sam.data.masks import encode
from mobile_sam.data.records import find_records
from mobile_sam.inference.loading import build_sam
from mobile_sam.inference.predictor import SamPredictor
from tests.helpers.segmenting import coco_of, segment_photos

BOXES: list[dict[str, Any]] = [
    {"image_id": 7, "category_id": 3, "bbox": [10, 5, 40.5, 30], "score": 0.75},
    {"image_id": 7, "category_id": 9, "bbox": [60, 40, 30, 30]},  # ends outside of the image
    {"image_id": 7, "category_id": 9, "bbox": [0, 0, 80, 60], "iscrowd": 1},
    *({"image_id": 7, "category_id": 3, "bbox": [n, n, 20, 20]} for n in range(6)),
]


@pytest.fixture
def boxes(images: Path) -> Path:
    """A COCO file with boxes of `a.png` only."""
    path = images.parent / "boxes.json"
    write_boxes(path, BOXES)
    return path


def write_boxes(path: Path, annotations: list[dict[str, Any]], **more: Any) -> None:
    names = (("a.png", 7, 60), ("below/b.png", 8, 61))
    listed = [
        {"id": number, "file_name": name, "width": 80, "height": height}
        for name, number, height in names
    ]
    classes = [{"id": 3, "name": "cell"}, {"id": 9, "name": "debris"}]
    file = {"images": listed, "annotations": annotations, "categories": classes, **more}
    path.write_text(json.dumps(file))


def test_masks_are_those_of_the_predictor_with_class_and_score(
    images: Path, boxes: Path, finished_weights: Path
) -> None:
    assert segment_photos(images, finished_weights, "--boxes", boxes) == 0
    coco = coco_of(images)
    assert coco["categories"] == [{"id": 3, "name": "cell"}, {"id": 9, "name": "debris"}]
    predictor = SamPredictor(build_sam(finished_weights, 64))
    predictor.set_image(read_image(images / "a.png"))
    wanted = []
    for item in (item for item in BOXES if not item.get("iscrowd")):
        x, y, width, height = item["bbox"]
        box = np.array([x, y, x + width, y + height])
        masks, predicted_iou, _ = predictor.predict(box=box, multimask_output=False)
        if masks.any():
            score = item.get("score", pytest.approx(float(predicted_iou[0]), abs=1e-5))
            wanted.append((1, item["category_id"], encode(masks[0]).decode(), score))
    assert len(wanted) > 4, "more than are decoded at a time"
    assert [
        (item["image_id"], item["category_id"], item["segmentation"]["counts"], item["score"])
        for item in coco["annotations"]
    ] == wanted
    out = images.parent / "out"
    labels = np.asarray(Image.open(out / "label_maps" / "a.png"))
    assert len(np.unique(labels)) > 1
    assert not np.asarray(Image.open(out / "label_maps" / "below" / "b.png")).any()


def test_a_run_can_learn_from_the_masks_and_classes(
    images: Path, boxes: Path, finished_weights: Path
) -> None:
    assert segment_photos(images, finished_weights, "--boxes", boxes) == 0
    found = find_records(images, images.parent / "out" / "coco.json")
    assert not found.problems
    assert {item.category for item in found.records[0].objects} <= {"cell", "debris"}
    assert found.records[0].objects


def test_only_images_whose_boxes_changed_are_asked_again(
    images: Path, boxes: Path, finished_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment_photos(images, finished_weights, "--boxes", boxes) == 0
    assert segment_photos(images, finished_weights, "--boxes", boxes) == 0
    assert "2 of them finished before" in capsys.readouterr().out
    write_boxes(boxes, [*BOXES, {"image_id": 8, "category_id": 3, "bbox": [20, 20, 30, 30]}])
    assert segment_photos(images, finished_weights, "--boxes", boxes) == 0
    assert "1 of them finished before" in capsys.readouterr().out
    assert {item["image_id"] for item in coco_of(images)["annotations"]} == {1, 2}


def test_labels_of_yolo(images: Path, finished_weights: Path) -> None:
    labels = images.parent / "labels"
    (labels / "below").mkdir(parents=True)
    (labels / "classes.txt").write_text("cell\ndebris\n")
    (labels / "below" / "b.txt").write_text("1 0.5 0.5 0.5 0.5 0.25\n\n0 0.25 0.5 0.5 1\n")
    assert segment_photos(images, finished_weights, "--boxes", labels) == 0
    told = json.loads((images.parent / "out" / "masks" / "below" / "b.json").read_text())
    assert [item["prompt_box"] for item in told["annotations"]] == [
        pytest.approx([20, 15.25, 60, 45.75]),
        pytest.approx([0, 0, 40, 61]),
    ]
    coco = coco_of(images)
    assert coco["categories"] == [{"id": 0, "name": "cell"}, {"id": 1, "name": "debris"}]
    assert [item["category_id"] for item in coco["annotations"]] == [1, 0]
    assert coco["annotations"][0]["score"] == 0.25


def test_boxes_of_another_image_are_named_and_the_others_are_written(
    images: Path, boxes: Path, finished_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(images / "a.png")
    assert segment_photos(images, finished_weights, "--boxes", boxes) == 1
    assert (
        "boxes of a: the boxes are for an image of 80x60 pixels, but this one has 40x30"
        in caplog.text
    )
    assert [image["file_name"] for image in coco_of(images)["images"]] == ["below/b.png"]


def test_files_of_a_grid_are_refused_and_so_are_its_options(
    images: Path, boxes: Path, finished_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = ("--boxes", boxes, "--points-per-side", 4)
    assert segment_photos(images, finished_weights, *given) == 1
    assert "--points-per-side is an option of automatic masks; leave out --boxes" in caplog.text
    assert segment_photos(images, finished_weights, "--points-per-side", 1) == 0
    assert segment_photos(images, finished_weights, "--boxes", boxes) == 1
    assert 'prompts "grid", now "boxes"' in caplog.text
