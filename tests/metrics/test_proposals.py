"""Proposals, compared with COCOeval without classes and with masks pixel by pixel."""

from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mobile_sam.data.masks import encode
from mobile_sam.metrics import iou
from mobile_sam.metrics.proposals import THRESHOLDS, best_overlaps, recall_shares
from tests.helpers.mask_pairs import Mask, blobs

SIZE = (48, 64)
Image = tuple[list[Mask], list[Mask], list[float]]


def rectangles(number: int, rng: np.random.Generator) -> list[Mask]:
    found = []
    for _ in range(number):
        mask = np.zeros(SIZE, dtype=bool)
        y, x = rng.integers(0, 30), rng.integers(0, 40)
        mask[y : y + rng.integers(4, 18), x : x + rng.integers(4, 24)] = True
        found.append(mask)
    return found


def random_image(rng: np.random.Generator) -> Image:
    """Segments, and proposals near to them in random order, some twice; scores with ties."""
    truths = [*rectangles(rng.integers(1, 8), rng), blobs(SIZE, rng)]
    truths += truths[:1]  # equal segments, of which each may be taken
    proposals = rectangles(rng.integers(0, 30), rng)
    for mask in truths:
        for _ in range(rng.integers(0, 4)):
            moved = np.roll(mask, rng.integers(-2, 3, 2), axis=(0, 1))
            proposals.append(moved & (rng.random(SIZE) < rng.uniform(0.7, 1.1)))
    order = rng.permutation(len(proposals))
    return truths, [proposals[i] for i in order], rng.random(len(proposals)).round(1).tolist()


def codes(masks: list[Mask]) -> list[bytes]:
    return [encode(mask) for mask in masks]


def evaluated(images: list[Image], most: int) -> COCOeval:
    """COCOeval of all images without classes."""
    truth, found = COCO(), COCO()
    listed: list[dict[str, Any]] = [
        {"id": n, "height": SIZE[0], "width": SIZE[1]} for n in range(len(images))
    ]
    annotations: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for n, (truths, proposals, scores) in enumerate(images):
        for kept, masks, given in (
            (annotations[0], truths, [1.0] * len(truths)),
            (annotations[1], proposals, scores),
        ):
            for mask, score in zip(masks, given, strict=True):
                code = {"size": list(SIZE), "counts": encode(mask)}
                common = {"image_id": n, "category_id": 1, "iscrowd": 0, "score": score}
                kept.append(
                    {"id": len(kept) + 1, "segmentation": code, "area": int(mask.sum()), **common}
                )
    for api, rows in zip((truth, found), annotations, strict=True):
        api.dataset = {"images": listed, "annotations": rows, "categories": [{"id": 1}]}
        api.createIndex()
    evaluation = COCOeval(truth, found, "segm")
    evaluation.params.useCats = 0
    evaluation.params.maxDets = [most]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize("most", [1000, 10, 3])
def test_mean_share_is_the_average_recall_of_cocoeval(most: int) -> None:
    rng = np.random.default_rng(most)
    images = [random_image(rng) for _ in range(25)]
    shares = np.concatenate(
        [recall_shares(codes(t), codes(p), s, SIZE, most) for t, p, s in images]
    )
    theirs = evaluated(images, most).eval["recall"][:, 0, 0, 0]
    assert 0.05 < theirs.mean() < 0.95
    assert shares.mean() == pytest.approx(theirs.mean(), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_segments_found_are_those_of_cocoeval(seed: int) -> None:
    truths, proposals, scores = random_image(np.random.default_rng(seed))
    shares = recall_shares(codes(truths), codes(proposals), scores, SIZE)
    theirs = evaluated([(truths, proposals, scores)], 1000).evalImgs[0]["gtMatches"] > 0
    assert theirs.shape == (len(THRESHOLDS), len(truths))
    assert shares == pytest.approx(theirs.mean(axis=0), abs=1e-12)


def test_a_proposal_finds_one_segment_only() -> None:
    mask = rectangles(1, np.random.default_rng(0))
    assert recall_shares(codes(mask * 2), codes(mask), [1.0], SIZE).tolist() == [0.0, 1.0]
    assert recall_shares(codes(mask * 2), codes(mask * 2), [1.0, 0.5], SIZE).tolist() == [1, 1]
    assert best_overlaps(codes(mask * 2), codes(mask), SIZE).tolist() == [1.0, 1.0]


def test_a_sure_proposal_takes_the_segment_from_a_better_one() -> None:
    truth = np.zeros(SIZE, dtype=bool)
    truth[:10, :10] = True
    poor = truth.copy()
    poor[:, 6:] = False  # IoU 0.6: found at 3 of 10 thresholds; the other at all
    shares = recall_shares(codes([truth]), codes([poor, truth]), [0.9, 0.1], SIZE)
    assert shares.tolist() == [1.0]
    assert recall_shares(codes([truth]), codes([poor, truth]), [0.9, 0.1], SIZE, 1) == [0.3]


def test_best_overlap_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        truths, proposals, _ = random_image(rng)
        expected = [max((iou(p, t) for p in proposals), default=0.0) for t in truths]
        assert best_overlaps(codes(truths), codes(proposals), SIZE) == pytest.approx(expected)


def test_without_proposals_nothing_is_found() -> None:
    truths = codes(rectangles(3, np.random.default_rng(1)))
    assert best_overlaps(truths, [], SIZE).tolist() == [0, 0, 0]
    assert recall_shares(truths, [], [], SIZE).tolist() == [0, 0, 0]
    assert best_overlaps([], truths, SIZE).shape == (0,)
    assert recall_shares([], truths, [1, 2, 3], SIZE).shape == (0,)


def test_each_proposal_needs_a_score() -> None:
    truths = codes(rectangles(3, np.random.default_rng(1)))
    with pytest.raises(ValueError, match="3 proposals"):
        recall_shares(truths, truths, [1.0, 0.5], SIZE)
