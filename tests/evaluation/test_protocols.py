"""What is measured is what the predictor answers, prompt by prompt."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mobile_sam.config.run import RunConfig
from mobile_sam.data.images import read_image
from mobile_sam.data.index.table import Index, IndexedImage, Segment
from mobile_sam.data.masks import Mask, encode, interior_point
from mobile_sam.data.sampling.click_simulation import next_click
from mobile_sam.evaluation import runner
from mobile_sam.evaluation.options import EvaluationOptions, evaluation_options
from mobile_sam.evaluation.protocols import box_center
from mobile_sam.evaluation.rows import Row, filled_box_rows
from mobile_sam.evaluation.runner import measure_images
from mobile_sam.inference.predictor import Prediction, SamPredictor
from mobile_sam.metrics import boundary_f, boundary_iou, dice, iou
from mobile_sam.metrics.mask_crop import crop_mask
from mobile_sam.models.sam import Sam
from mobile_sam.models.student_teacher import start_student
from mobile_sam.paths import RunPaths

HOW = EvaluationOptions(
    0.0, (-1.0, 0.0, 1.0), ("box", "point", "center", "best_of_3", "clicks", "noc")
)


@pytest.fixture
def model(tiny: Callable[..., RunConfig]) -> Sam:
    return start_student(tiny()).eval()


@pytest.fixture
def index(tiny: Callable[..., RunConfig]) -> Index:
    return Index(RunPaths(tiny()).index, "val")


def rows_of(model: Sam, index: Index, how: EvaluationOptions = HOW, **options: Any) -> list[Row]:
    return list(measure_images(model, index, range(len(index)), how, "x", **options))


def select(rows: list[Row], prompt: str, record: IndexedImage, segment: Segment) -> Row:
    key = (prompt, record.image_id, segment.segment_id)
    (found,) = (r for r in rows if (r["prompt"], r["image_id"], r["segment_id"]) == key)
    return found


def by_hand(
    predictor: SamPredictor, record: IndexedImage, truth: Mask
) -> dict[str, Prediction[NDArray[Any]]]:
    """Masks, predicted IoU and low_res_logits of each prompt, through the predictor."""
    box = np.array(_box(truth))
    point = np.array([interior_point(truth)])
    label = np.ones(1, dtype=int)
    center = box_center(crop_mask(truth)).points[:1]
    found = {
        "box": predictor.predict(box=box, multimask_output=False),
        "box_of_3": predictor.predict(box=box),
        "point": predictor.predict(point, label, multimask_output=False),
        "point_of_3": predictor.predict(point, label),
        "center": predictor.predict(center, label, multimask_output=False),
    }
    best = int(found["point_of_3"][1].argmax())
    mask, low_res = found["point_of_3"][0][best], found["point_of_3"][2][best][None]
    clicks = [(int(point[0, 0]), int(point[0, 1]), True)]
    for count in range(2, 6):
        clicks.append(next_click(mask, truth, clicks))
        places = np.array([(x, y) for x, y, _ in clicks])
        labels = np.array([int(on) for _, _, on in clicks])
        found[f"clicks_{count}"] = predictor.predict(
            places, labels, mask_input=low_res, multimask_output=False
        )
        mask, low_res = found[f"clicks_{count}"][0][0], found[f"clicks_{count}"][2]
    return found


def _box(mask: Mask) -> tuple[int, int, int, int]:
    y, x = np.nonzero(mask)
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


def test_every_protocol_measures_what_the_predictor_answers(model: Sam, index: Index) -> None:
    rows = rows_of(model, index)
    predictor = SamPredictor(model)
    record = index[0]
    predictor.set_image(read_image(record.path))
    for segment in record.segments:
        truth = record.mask(segment)
        hand = by_hand(predictor, record, truth)

        def row(prompt: str, of: Segment = segment) -> Row:
            return select(rows, prompt, record, of)

        for prompt in ("box", "point", "center", "clicks_3", "clicks_5"):
            masks, guesses, _ = hand[prompt]
            found = row(prompt)
            assert found["iou"] == pytest.approx(iou(masks[0], truth), abs=0.01)
            assert found["dice"] == pytest.approx(dice(masks[0], truth), abs=0.01)
            assert found["boundary_iou"] == pytest.approx(boundary_iou(masks[0], truth), abs=0.02)
            assert found["boundary_f"] == pytest.approx(boundary_f(masks[0], truth), abs=0.02)
            assert found["predicted_iou"] == pytest.approx(float(guesses[0]), abs=1e-4)
        for prompt in ("box", "point"):
            masks, guesses, _ = hand[f"{prompt}_of_3"]
            mask_iou = [iou(mask, truth) for mask in masks]
            assert row(f"{prompt}_best_of_3")["iou"] == pytest.approx(max(mask_iou), abs=0.01)
            chosen = mask_iou[int(guesses.argmax())]
            assert row(f"{prompt}_chosen_of_3")["iou"] == pytest.approx(chosen, abs=0.01)
            assert row(f"{prompt}_best_of_3")["iou"] >= row(f"{prompt}_chosen_of_3")["iou"]


def test_the_sweep_has_each_threshold(model: Sam, index: Index) -> None:
    rows = rows_of(model, index)
    for number, threshold in enumerate(HOW.thresholds):
        other = rows_of(model, index, replace(HOW, mask_threshold=threshold))
        for prompt in ("box", "point"):
            swept = [row["sweep"][number] for row in rows if row["prompt"] == prompt]
            assert swept == pytest.approx([r["iou"] for r in other if r["prompt"] == prompt])
    assert all(row.get("sweep") is None for row in rows if row["prompt"] not in ("box", "point"))


def test_the_runs_own_threshold_is_swept(tiny: Callable[..., RunConfig]) -> None:
    config = tiny(thresholds=(1.0, -1.0), mask_threshold=0.3)
    assert evaluation_options(config).thresholds == (-1.0, 0.3, 1.0)


def test_only_the_protocols_asked_for_are_measured(model: Sam, index: Index) -> None:
    few = rows_of(model, index, replace(HOW, protocols=("box", "clicks")))
    assert list(dict.fromkeys(row["prompt"] for row in few)) == ["box", "clicks_3", "clicks_5"]
    counted = rows_of(model, index, replace(HOW, protocols=("box", "noc")))
    assert {row["prompt"] for row in counted} == {"box", "noc"}
    everything = {
        (r["image_id"], r["segment_id"]): r for r in rows_of(model, index) if r["prompt"] == "noc"
    }
    for row in counted:
        if row["prompt"] == "noc":
            same = everything[row["image_id"], row["segment_id"]]
            assert (row["noc_80"], row["noc_90"]) == (same["noc_80"], same["noc_90"])


def test_how_many_prompts_go_together_changes_nothing(
    model: Sam, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = rows_of(model, index)
    monkeypatch.setattr(runner, "prompts_per_batch", lambda size, masks: 1)
    alone = rows_of(model, index)
    keys = ("prompt", "image_id", "segment_id")
    assert [[r[k] for k in keys] for r in together] == [[r[k] for k in keys] for r in alone]
    assert [r["iou"] for r in together] == pytest.approx([r["iou"] for r in alone], abs=0.02)
    assert any(len(index[i].segments) > 1 for i in range(len(index)))


def test_readers_change_nothing(model: Sam, index: Index) -> None:
    assert repr(rows_of(model, index)) == repr(rows_of(model, index, readers=2))


def test_what_is_unknown_counts_for_nothing(model: Sam, index: Index) -> None:
    record = index[0]
    everything = ~np.any([record.mask(s) for s in record.segments], axis=0)
    ignored = Segment("crowd", encode(everything), (0, 0, 64, 64), int(everything.sum()))
    half_known = replace(record, ignored=(ignored,))
    filled = list(filled_box_rows([half_known], [0], "box_filled"))  # type: ignore[arg-type]
    asked = list(measure_images(model, [half_known], [0], replace(HOW, mask_threshold=-1e9), "x"))  # type: ignore[arg-type]
    for segment in record.segments:
        known = (
            record.mask(segment).sum()
            / np.any([record.mask(s) for s in record.segments], axis=0).sum()
        )
        assert select(asked, "box", record, segment)["iou"] == pytest.approx(known)
        x0, y0, x1, y1 = segment.box
        inside = np.zeros(record.size, dtype=bool)
        inside[y0:y1, x0:x1] = True
        expected = iou(inside & ~everything, record.mask(segment))
        assert select(filled, "box", record, segment)["iou"] == expected


def test_an_image_of_another_size_is_refused(model: Sam, index: Index, tmp_path: Path) -> None:
    changed = replace(index[0], size=(63, 64))
    with pytest.raises(ValueError, match="run `index` again"):
        list(measure_images(model, [changed], [0], HOW, "x"))  # type: ignore[arg-type]
