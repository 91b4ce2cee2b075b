"""Average precision, compared with pycocotools and with the LVIS authors' package."""

import copy
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pytest
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mobile_sam.metrics.average_precision import average_precision
from tests.helpers.detections import SIZE, data_set, federated_data_set, rle
from tests.helpers.oracle import original

OF_COCO = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR"]
OF_LVIS = [*OF_COCO, "APr", "APc", "APf"]


def by_pycocotools(truth: Any, results: Any, image_ids: list[int] | None = None) -> list[float]:
    """In the order of OF_COCO; NaN where they say -1."""
    api = COCO()
    api.dataset = copy.deepcopy(truth)
    api.createIndex()
    evaluation = COCOeval(api, api.loadRes(copy.deepcopy(results)), "segm")
    if image_ids is not None:
        evaluation.params.imgIds = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [absent_is_nan(evaluation.stats[i]) for i in (0, 1, 2, 3, 4, 5, 8)]


def by_hotcoco(truth: Any, results: Any, directory: Path, lvis: bool) -> dict[str, float]:
    """By the names of hotcoco, which shares no code with pycocotools."""
    path = directory / "truth.json"
    path.write_text(json.dumps(truth))
    known = hotcoco.COCO(str(path))
    evaluation = hotcoco.COCOeval(known, known.load_res(results), "segm", lvis_style=lvis)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {name: absent_is_nan(value) for name, value in evaluation.get_results().items()}


def absent_is_nan(value: float) -> float:
    return math.nan if value == -1 else float(value)


@pytest.mark.parametrize("seed", range(4))
def test_coco_is_that_of_pycocotools(seed: int) -> None:
    truth, results = data_set(seed)
    assert any(row["iscrowd"] for row in truth["annotations"])
    found = average_precision(truth, results)
    assert list(found) == OF_COCO
    assert list(found.values()) == pytest.approx(by_pycocotools(truth, results), abs=1e-12)
    assert all(0 < value < 1 for value in found.values())


@pytest.mark.parametrize("seed", range(4))
def test_coco_is_that_of_hotcoco(seed: int, tmp_path: Path) -> None:
    truth, results = data_set(seed)
    found, theirs = average_precision(truth, results), by_hotcoco(truth, results, tmp_path, False)
    expected = {name: theirs["AR100" if name == "AR" else name] for name in OF_COCO}
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_lvis_is_that_of_hotcoco(seed: int, tmp_path: Path) -> None:
    truth, results = federated_data_set(seed)
    # hotcoco 1.3 counts detections without a pixel, which LVIS' authors leave out.
    results = [row for row in results if coco.area(row["segmentation"])]
    found, theirs = average_precision(truth, results), by_hotcoco(truth, results, tmp_path, True)
    expected = {name: theirs["AR@300" if name == "AR" else name] for name in OF_LVIS}
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_coco_is_that_of_pycocotools_for_chosen_images() -> None:
    truth, results = data_set(7)
    chosen = [image["id"] for image in truth["images"][::2]]
    found = average_precision(truth, results, chosen)
    assert list(found.values()) == pytest.approx(by_pycocotools(truth, results, chosen), abs=1e-12)
    assert found != average_precision(truth, results)


def test_only_100_detections_of_a_category_count_in_coco() -> None:
    truth, results = data_set(5, images=3, most=120)
    keys = [1000 * row["image_id"] + row["category_id"] for row in results]
    assert np.unique(keys, return_counts=True)[1].max() > 100
    found, theirs = average_precision(truth, results), by_pycocotools(truth, results)
    assert list(found.values()) == pytest.approx(theirs, abs=1e-12, nan_ok=True)


def test_lvis_is_that_of_its_authors(tmp_path: Path) -> None:
    cases: list[Any] = [(*federated_data_set(seed), None) for seed in range(6)]
    crowded = federated_data_set(5, images=3, most=120)
    assert max(Counter(row["image_id"] for row in crowded[1]).values()) > 300
    chosen = [image["id"] for image in cases[3][0]["images"][::2]]
    cases += [(*crowded, None), (*cases[3][:2], chosen)]
    ours = [average_precision(*case) for case in cases]
    theirs = original("evaluate_lvis", {"cases": cases}, tmp_path)
    for found, known in zip(ours, theirs, strict=True):
        expected = {k: absent_is_nan(known["AR@300" if k == "AR" else k]) for k in OF_LVIS}
        assert list(found) == OF_LVIS
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
    values = np.array([list(found.values()) for found in ours])
    assert np.isfinite(values).mean() > 0.95
    assert ((values > 0.05) & (values < 0.95)).mean() > 0.9
    assert ours[-1] != ours[3]


@pytest.mark.parametrize(("false", "ap"), [(299, 1.0), (300, 0.0)])
def test_the_detection_of_rank_300_counts_in_lvis_and_the_next_does_not(
    false: int, ap: float
) -> None:
    truth, results = one_object(2, false)
    truth["images"][0] |= {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
    found = average_precision(truth, results)
    assert (found["AP"], found["AR"], found["APr"]) == pytest.approx((ap, ap, ap))
    assert math.isnan(found["APf"])


@pytest.mark.parametrize(("false", "ap", "ar"), [(99, 0.01, 1.0), (100, 0.0, 0.0)])
def test_the_detection_of_rank_100_counts_in_coco_and_the_next_does_not(
    false: int, ap: float, ar: float
) -> None:
    found = average_precision(*one_object(1, false))
    assert (found["AP"], found["AR"]) == pytest.approx((ap, ar))


def one_object(category: int, false: int) -> tuple[Any, Any]:
    """One object of category 1, found after so many false detections of the given category."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:20, 10:20] = True
    common = {"image_id": 1, "category_id": 1, "segmentation": rle(mask)}
    elsewhere = {"category_id": category, "segmentation": rle(~mask), "score": 0.9}
    truth = {
        "images": [{"id": 1, "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"id": 1, "area": 100, **common}],
        "categories": [{"id": 1, "frequency": "r"}, {"id": 2, "frequency": "f"}],
    }
    return truth, [{**common, "score": 0.5}, *[common | elsewhere] * false]


def test_what_is_not_known_of_an_image_costs_nothing() -> None:
    """A false detection counts where the category is known to be absent, and only there."""
    truth, results = federated_data_set(1)
    image = truth["images"][0]
    there = {r["category_id"] for r in truth["annotations"] if r["image_id"] == image["id"]}
    elsewhere = {row["category_id"] for row in truth["annotations"]} - there
    name = min(elsewhere)
    mask = np.zeros(SIZE, dtype=bool)
    mask[-9:, -9:] = True
    false = {"image_id": image["id"], "category_id": name, "segmentation": rle(mask), "score": 2.0}
    image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    unknown = average_precision(truth, results)
    assert average_precision(truth, [*results, false]) == unknown
    image["neg_category_ids"] = [name]
    assert average_precision(truth, [*results, false])["AP"] < unknown["AP"]
    image["not_exhaustive_category_ids"] = [name]
    assert average_precision(truth, [*results, false])["AP"] == pytest.approx(unknown["AP"])


def test_a_box_beside_the_mask_changes_nothing() -> None:
    """COCOeval would take the area of the box for that of the mask, here a large one."""
    truth, results = data_set(2)
    boxed = [{**row, "bbox": [0, 0, 200, 150]} for row in results]
    assert average_precision(truth, boxed) == average_precision(truth, results)
    assert by_pycocotools(truth, boxed) != by_pycocotools(truth, results)


@pytest.mark.parametrize("make", [data_set, federated_data_set])
def test_the_arguments_stay_as_they_are_and_nothing_is_printed(
    make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, results = make(3)
    kept = copy.deepcopy((truth, results))
    assert average_precision(truth, results) == average_precision(truth, results)
    assert (truth, results) == kept
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("make", [data_set, federated_data_set])
def test_no_detection_is_0_and_no_object_is_nan(make: Any) -> None:
    truth, results = make(3)
    assert set(average_precision(truth, []).values()) == {0.0}
    without = truth | {"annotations": []}
    assert all(map(math.isnan, average_precision(without, results).values()))
    small = [row for row in truth["annotations"] if row["area"] < 32**2]
    found = average_precision(truth | {"annotations": small}, results)
    assert math.isnan(found["APl"])
    assert found["APs"] > 0


def test_perfect_masks_reach_1() -> None:
    truth, _ = data_set(4)
    api = COCO()
    api.dataset = truth
    api.createIndex()
    rows = [row for row in truth["annotations"] if not row["iscrowd"]]
    keys = ("image_id", "category_id")
    results = [
        {**{k: row[k] for k in keys}, "segmentation": api.annToRLE(row), "score": 1} for row in rows
    ]
    assert list(average_precision(truth, results).values()) == pytest.approx([1.0] * 7)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_id": -1}, "image -1"),
        ({"category_id": 4}, "category 4"),
        ({"segmentation": {"size": [200, 150], "counts": ""}}, r"\[200, 150\]"),
    ],
)
def test_results_of_other_images_are_refused(change: dict[str, Any], named: str) -> None:
    truth, results = data_set(3)
    with pytest.raises(ValueError, match=named):
        average_precision(truth, [*results, results[0] | change])


def test_incomplete_annotations_are_refused() -> None:
    truth, results = federated_data_set(3)
    with pytest.raises(ValueError, match="image -5"):
        average_precision(truth, results, [truth["images"][0]["id"], -5])
    broken = copy.deepcopy(truth)
    del broken["annotations"][2]["area"]
    with pytest.raises(ValueError, match="annotation 3 has no 'area'"):
        average_precision(broken, results)
    broken = copy.deepcopy(truth)
    del broken["images"][1]["neg_category_ids"]
    with pytest.raises(ValueError, match=f"image {truth['images'][1]['id']} has no 'neg_cat"):
        average_precision(broken, results)
    broken = copy.deepcopy(truth)
    del broken["categories"][0]["frequency"]
    with pytest.raises(ValueError, match="category 11 has frequency None"):
        average_precision(broken, results)
