"""A detector's boxes become masks, and their AP is that of COCO."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobile_sam.config.run import RunConfig
from mobile_sam.data.images import read_image
from mobile_sam.data.masks import Mask, encode
from mobile_sam.evaluation.detections import measure_detections, read_detections
from mobile_sam.evaluation.from_run import write_average_precision
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.metrics.average_precision import average_precision
from mobile_sam.models.sam import Sam
from mobile_sam.models.student_teacher import start_student
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.inputs import check_detections
from mobile_sam.system.errors import ConfigError

BOXES = {1: [(8, 8, 20, 16), (30, 10, 20, 30)], 2: [(5, 30, 25, 25)]}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two images of noise, one more without objects, and a COCO file of rectangles and classes."""
    rng = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (tmp_path / "image").mkdir()
    for number in (1, 2, 3):
        pixels = rng.integers(0, 255, (64, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "image" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 60, "height": 64})
        for box in BOXES.get(number, []):
            x, y, w, h = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1 + len(annotations) % 2,
                    "bbox": box,
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return tmp_path


def detections(coco: Path) -> list[dict[str, Any]]:
    truth = json.loads((coco / "coco.json").read_text())
    return [
        {k: row[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9 - 0.1 * number}
        for number, row in enumerate(truth["annotations"])
    ] + [{"image_id": 3, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.95}]


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def precision(model: Sam, coco: Path, found: Path, threshold: float = 0.0) -> dict[str, float]:
    return measure_detections(model, found, coco / "coco.json", coco / "image", threshold)


def filled(box: tuple[float, ...]) -> Mask:
    mask = np.zeros((64, 60), dtype=bool)
    x, y, w, h = (int(side) for side in box)
    mask[y : y + h, x : x + w] = True
    return mask


def test_each_box_is_segmented_as_the_predictor_does(
    tiny: Callable[..., RunConfig], coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = start_student(tiny()).eval()
    found = write(coco / "boxes.json", detections(coco))
    given: list[dict[str, Any]] = []

    def keep(truth: object, results: list[dict[str, Any]]) -> dict[str, float]:
        given.extend(results)
        return {"AP": 0.0}

    monkeypatch.setattr("mobile_sam.evaluation.detections.average_precision", keep)
    threshold = -0.05
    precision(model, coco, found, threshold)
    predictor = SamPredictor(model, threshold)
    assert len(given) == len(detections(coco))
    asked = {(row["image_id"], tuple(row["bbox"])): row for row in detections(coco)}
    expected = []
    for (image_id, (x, y, w, h)), row in sorted(asked.items(), key=lambda item: item[0]):
        predictor.set_image(read_image(coco / "image" / f"{image_id}.png"))
        mask = predictor.predict(box=np.array([x, y, x + w, y + h]), multimask_output=False)[0][0]
        expected.append((image_id, row["category_id"], row["score"], encode(mask.astype(bool))))
    got = [
        (r["image_id"], r["category_id"], r["score"], r["segmentation"]["counts"]) for r in given
    ]
    order = [(r["image_id"], tuple(r["bbox"])) for r in detections(coco)]
    assert [g[:3] for g in got] == [
        (image_id, asked[image_id, box]["category_id"], asked[image_id, box]["score"])
        for image_id, box in order
    ]
    assert {g[3] for g in got} == {e[3] for e in expected}


def test_perfect_masks_have_a_precision_of_one(coco: Path) -> None:
    """The oracle of the numbers: the same results, with masks that fill their boxes."""
    truth = json.loads((coco / "coco.json").read_text())
    results = [
        {**row, "segmentation": {"size": [64, 60], "counts": encode(filled(tuple(row["bbox"])))}}
        for row in detections(coco)[:-1]
    ]
    assert average_precision(truth, results)["AP"] == pytest.approx(1.0)


def test_an_image_without_objects_counts(tiny: Callable[..., RunConfig], coco: Path) -> None:
    """At a threshold that takes everything, each mask is the image: nothing is found."""
    model = start_student(tiny()).eval()
    found = write(coco / "boxes.json", detections(coco))
    everything = precision(model, coco, found, threshold=-1e9)
    assert everything["AP"] == 0.0
    assert everything["AR"] == 0.0


def test_a_run_writes_the_precision_of_each_model(
    tiny: Callable[..., RunConfig], coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = write(coco / "boxes.json", detections(coco))
    config = tiny(detections=str(found)).model_copy(
        update={"val_img_dir": str(coco / "image"), "val_mask_dir": str(coco / "coco.json")}
    )
    write_average_precision(config, "start")
    written = json.loads(RunPaths(config).average_precision("start").read_text())
    assert set(written) == {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR"}
    assert written["AP"] is not None
    assert written["APl"] is None  # no object is that large
    target = RunPaths(config).average_precision("start")
    target.unlink()  # as Snakemake does when the job is ended in the last moment
    with monkeypatch.context() as measuring_nothing:
        measuring_nothing.setattr("mobile_sam.evaluation.from_run.measure_detections", None)
        write_average_precision(config, "start")
        assert json.loads(target.read_text()) == written
        with pytest.raises(TypeError):
            write_average_precision(config.model_copy(update={"mask_threshold": 0.5}), "start")
    with pytest.raises(ConfigError, match="set it to a file with boxes"):
        write_average_precision(config, "box_filled")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "not in COCO's results format"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]}], "not in COCO's results format"),
        ([{"image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}], "image_id 9 is"),
        ([{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 1}], "category 7"),
    ],
)
def test_boxes_of_something_else_are_refused(
    content: Any, message: str, tiny: Callable[..., RunConfig], coco: Path
) -> None:
    found = write(coco / "boxes.json", content)
    with pytest.raises(ConfigError, match=message):
        precision(start_student(tiny()).eval(), coco, found)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.json"):
        read_detections(tmp_path / "gone.json")


def test_boxes_need_a_coco_file(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny(detections=str(tmp_path / "boxes.json"))
    with pytest.raises(ConfigError, match=r"detections: there is no file .*boxes\.json"):
        check_detections(config)
    write(tmp_path / "boxes.json", [])
    with pytest.raises(ConfigError, match="needs classes and image ids of a COCO file"):
        check_detections(config)
