"""Masks found without prompts are measured by the segments they cover."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.data.images import read_image
from mobile_sam.data.index.table import Index, Segment
from mobile_sam.data.masks import decode, encode
from mobile_sam.evaluation import protocols
from mobile_sam.evaluation.encoded import EncodedImage, load_frame
from mobile_sam.evaluation.options import EvaluationOptions
from mobile_sam.evaluation.protocols import automatic_results
from mobile_sam.evaluation.runner import measure_images
from mobile_sam.inference.automatic_masks import automatic_masks
from mobile_sam.inference.grid import Crop
from mobile_sam.inference.proposals import AutomaticMask, AutomaticOptions
from mobile_sam.metrics import iou
from mobile_sam.models.student_teacher import start_student
from mobile_sam.paths import RunPaths

HOW = EvaluationOptions(0.0, (0.0,), ("box",), automatic_images=2, automatic_points=4)


def proposal(code: bytes, score: float) -> AutomaticMask:
    return AutomaticMask(code, 1, (0, 0, 1, 1), score, 1.0, (0.0, 0.0), Crop(0, 0, 64, 64, 0))


def found(config: RunConfig) -> list[Any]:
    model = start_student(config).eval()
    record = Index(RunPaths(config).index, "val")[0]
    with torch.no_grad():
        image = EncodedImage(model, load_frame(record, 64), record)
        return list(automatic_results(image, record, 4, 0.0))


def test_perfect_proposals_find_every_segment(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    record = Index(RunPaths(config).index, "val")[0]
    noise = encode(np.random.default_rng(0).random(record.size) < 0.5)
    proposals = [proposal(noise, 0.99), *(proposal(s.rle, 0.1) for s in record.segments)]
    monkeypatch.setattr(protocols, "automatic_masks", lambda *_: proposals)
    assert [best.code for best, _ in found(config)] == [s.rle for s in record.segments]
    assert [share for _, share in found(config)] == [1.0] * len(record.segments)
    monkeypatch.setattr(protocols, "MAX_PROPOSALS", 1)  # of which the noise is ranked first
    assert [share for _, share in found(config)] == [0.0] * len(record.segments)
    monkeypatch.setattr(protocols, "automatic_masks", lambda *_: [])
    assert found(config) == [(None, 0.0)] * len(record.segments)


def test_a_mask_scores_the_same_with_and_without_a_prompt_where_regions_are_ignored(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    model, record = start_student(config).eval(), Index(RunPaths(config).index, "val")[0]
    segments = [record.mask(segment) for segment in record.segments]
    rest = ~np.any(segments, axis=0)
    ignored = Segment("crowd", encode(rest), (0, 0, 64, 64), int(rest.sum()))
    half_known = replace(record, ignored=(ignored,), segments=record.segments[:1])
    image = EncodedImage(model, load_frame(record, 64), half_known)
    claimed = encode(segments[0] | half_known.unknown())
    monkeypatch.setattr(protocols, "automatic_masks", lambda *_: [proposal(claimed, 0.9)])
    ((best, share),) = automatic_results(image, half_known, 4, 0.0)
    assert share == 1
    assert best is not None
    np.testing.assert_array_equal(decode(best.code, record.size), segments[0])


def test_some_images_are_segmented_without_prompts(tiny: Callable[..., RunConfig]) -> None:
    config = tiny()
    model = start_student(config).eval()
    index = Index(RunPaths(config).index, "val")
    assert len(index) == 3
    rows = list(measure_images(model, index, range(3), HOW, "x"))
    automatic = [row for row in rows if row["prompt"] == "automatic"]
    expected = [(index[i].image_id, s.segment_id) for i in range(2) for s in index[i].segments]
    assert [(row["image_id"], row["segment_id"]) for row in automatic] == expected
    options = AutomaticOptions(4, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=0.9)
    for record in (index[0], index[1]):
        masks = automatic_masks(model, read_image(record.path), options)
        assert 1 < len(masks) <= 4 * 4 * 3
        for segment in record.segments:
            best = max(iou(decode(m.code, record.size), record.mask(segment)) for m in masks)
            (row,) = (
                r
                for r in automatic
                if (r["image_id"], r["segment_id"]) == (record.image_id, segment.segment_id)
            )
            assert row["iou"] == pytest.approx(best)
            assert 0 <= row["recall"] <= 1
    fewer = replace(HOW, automatic_points=1)
    few = [
        r for r in measure_images(model, index, range(3), fewer, "x") if r["prompt"] == "automatic"
    ]
    assert sum(r["iou"] for r in few) < sum(r["iou"] for r in automatic)
    none = replace(HOW, automatic_images=0)
    assert {r["prompt"] for r in measure_images(model, index, range(3), none, "x")} == {"box"}
