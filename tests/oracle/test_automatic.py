"""The same automatic masks as the original `SamAutomaticMaskGenerator`, on random weights."""

from typing import Any

import numpy as np
import pytest
import torch

from mobile_sam.data.masks import Mask, decode, encode_runs
from mobile_sam.inference.automatic_masks import SamAutomaticMaskGenerator
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import to_original
from tests.helpers.oracle import original
from tests.helpers.photographs import MASK_THRESHOLD, patchy_model, photograph

TOLERANCE = 1e-5
KEPT = {"pred_iou_thresh": 0.75, "stability_score_thresh": 0.5, "stability_score_offset": 0.02}
GRID = np.random.default_rng(0).uniform(size=(16, 2))
CASES: dict[str, dict[str, Any]] = {
    "plain": {"points_per_side": 6, "points_per_batch": 10, "output_mode": "coco_rle"},
    "every_answer": {
        "points_per_side": 3,
        "pred_iou_thresh": 0.0,
        "stability_score_thresh": 0.0,
        "box_nms_thresh": 0.9,
        "output_mode": "uncompressed_rle",
    },
    "crops": {"points_per_side": 5, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    "regions": {"points_per_side": None, "point_grids": [GRID], "min_mask_region_area": 300},
}


@pytest.fixture(scope="module")
def model() -> Sam:
    return patchy_model()


@pytest.fixture(scope="module")
def theirs(model: Sam, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    options = [KEPT | case for case in CASES.values()]
    for case in options:
        if "point_grids" in case:
            case["point_grids"] = [torch.from_numpy(grid) for grid in case["point_grids"]]
    task = {
        "state": to_original(model),
        "image": torch.from_numpy(photograph()),
        "mask_threshold": MASK_THRESHOLD,
        "options": options,
    }
    answers = original("automatic", task, tmp_path_factory.mktemp("original"))
    return dict(zip(CASES, answers, strict=True))


def generator(model: Sam, name: str, **changes: Any) -> SamAutomaticMaskGenerator:
    options = KEPT | CASES[name] | changes
    return SamAutomaticMaskGenerator(model, **options, mask_threshold=MASK_THRESHOLD)


def as_mask(segmentation: Any) -> Mask:
    """The mask of a record of any `output_mode`."""
    if not isinstance(segmentation, dict):
        return np.asarray(segmentation)
    counts, size = segmentation["counts"], tuple(segmentation["size"])
    return decode(encode_runs(counts, size) if isinstance(counts, list) else counts.encode(), size)


@pytest.mark.parametrize("name", CASES)
def test_records_are_those_of_the_original(
    model: Sam, theirs: dict[str, list[dict[str, Any]]], name: str
) -> None:
    ours = generator(model, name).generate(photograph())
    assert len(ours) >= 10
    assert len({record["area"] for record in ours}) >= 8
    for record, wanted in zip(ours, theirs[name], strict=True):
        assert list(record) == list(wanted)
        for key in ("point_coords", "crop_box"):
            assert record[key] == wanted[key]
        assert record["predicted_iou"] == pytest.approx(wanted["predicted_iou"], abs=TOLERANCE)
        # A pixel whose logit is at the threshold falls to either side with a rounding.
        pixel = max(TOLERANCE, 1.01 / max(record["area"], 1))
        score = pytest.approx(wanted["stability_score"], abs=pixel, nan_ok=True)
        assert record["stability_score"] == score
        assert (as_mask(record["segmentation"]) != as_mask(wanted["segmentation"])).sum() <= 1
    same = [same_outline(*pair) for pair in zip(ours, theirs[name], strict=True)]
    assert sum(same) >= len(same) - 1


def same_outline(record: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether the segmentation, its area and its box are equal to the last pixel and character."""
    ours, theirs = record["segmentation"], wanted["segmentation"]
    if isinstance(ours, np.ndarray):
        ours, theirs = ours.tolist(), theirs.tolist()
    return ours == theirs and all(record[key] == wanted[key] for key in ("area", "bbox"))
