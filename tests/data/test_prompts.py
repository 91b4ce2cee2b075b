"""Prompts of training: by hand on simple masks, and as properties of random ones."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sam.config.sections import Prompts
from mobile_sam.data.masks import Mask, bounding_box, interior_point
from mobile_sam.data.sampling.prompts import (
    LOGIT,
    TRAINING_PROMPTS,
    Prompt,
    Target,
    jittered_box,
    num_points,
    perturbed_mask_logits,
    random_prompt,
    surroundings,
)
from mobile_sam.metrics import iou

SIDE = 32
NONE = dict.fromkeys(Prompts().shares, 0.0)


def only(kind: str, **changes: float) -> Prompts:
    return Prompts(**(NONE | {kind: 1.0} | changes))


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """Anything from one pixel to a full frame: noise, rectangles and blobs, padded or not."""
    height, width = draw(st.integers(1, SIDE)), draw(st.integers(1, SIDE))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    share = draw(st.floats(0, 1))
    kind = draw(st.sampled_from(["noise", "rectangle", "blob"]))
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    if kind == "noise":
        mask[:height, :width] = rng.random((height, width)) < share
    elif kind == "rectangle":
        y, x = rng.integers(height), rng.integers(width)
        mask[y : rng.integers(y, height) + 1, x : rng.integers(x, width) + 1] = True
    else:
        smooth = cv2.GaussianBlur(rng.random((height, width)), (0, 0), 3)
        mask[:height, :width] = smooth > np.quantile(smooth, share)
    mask[rng.integers(height), rng.integers(width)] = True
    return Target(mask, (height, width))


SEEDS = st.integers(0, 2**32)
KINDS = st.sampled_from(list(TRAINING_PROMPTS))


def at(mask: Mask, points: np.ndarray) -> np.ndarray:
    x, y = points.astype(int).T
    return mask[y, x]


def inside(target: Target, points: np.ndarray) -> bool:
    height, width = target.size
    return bool(((points >= 0) & (points < [width, height])).all())


def by_label(prompt: Prompt, label: int) -> np.ndarray:
    return prompt.points[prompt.labels == label]


@given(target=targets(), seed=SEEDS, kind=KINDS)
def test_every_kind_points_where_it_must(target: Target, seed: int, kind: str) -> None:
    prompt = random_prompt(target, only(kind), np.random.default_rng(seed))
    positive, negative = by_label(prompt, 1), by_label(prompt, 0)
    assert at(target.mask, positive).all()
    assert inside(target, negative)
    assert not at(target.mask, negative).any()
    corners = len(by_label(prompt, 2)), len(by_label(prompt, 3))
    # Either a box, or points on the segment that are followed by one padding point.
    assert corners == ((0, 0) if len(positive) else (1, 1))
    assert len(by_label(prompt, -1)) == (1 if len(positive) else 0)
    assert len(prompt.labels) == len(prompt.points) == num_points(only(kind))
    assert (prompt.mask is not None) == (kind == "mask")


@given(target=targets(), seed=SEEDS)
def test_a_box_without_jitter_leads_back_to_the_mask(target: Target, seed: int) -> None:
    settings = only("box", box_jitter=0.0)
    prompt = random_prompt(target, settings, np.random.default_rng(seed))
    assert prompt.points.flatten().tolist() == list(bounding_box(target.mask))
    filled = np.zeros_like(target.mask)
    (x0, y0), (x1, y1) = prompt.points.astype(int)
    filled[y0:y1, x0:x1] = True
    assert not (target.mask & ~filled).any()
    again = random_prompt(Target(filled, target.size), settings, np.random.default_rng(seed))
    assert np.array_equal(again.points, prompt.points)
    x, y = interior_point(target.mask)
    assert filled[y, x]


@given(target=targets(), seed=SEEDS, jitter=st.floats(0, 0.5))
def test_jitter_has_bounds(target: Target, seed: int, jitter: float) -> None:
    prompt = jittered_box(target, only("box", box_jitter=jitter), np.random.default_rng(seed))
    (x0, y0), (x1, y1) = prompt.points
    assert 0 <= x0 <= x1 <= SIDE
    assert 0 <= y0 <= y1 <= SIDE
    assert np.abs(prompt.points.flatten() - bounding_box(target.mask)).max() <= 20


@given(target=targets(), seed=SEEDS, most=st.integers(2, 6), most_negative=st.integers(0, 3))
def test_several_points_keep_their_numbers(
    target: Target, seed: int, most: int, most_negative: int
) -> None:
    settings = only("points", max_points=most, max_negative_points=most_negative)
    prompt = random_prompt(target, settings, np.random.default_rng(seed))
    positive, negative = by_label(prompt, 1), by_label(prompt, 0)
    assert min(2, target.mask.sum()) <= len(positive) <= most
    assert len(negative) <= most_negative
    both = np.concatenate([positive, negative])
    assert len(np.unique(both, axis=0)) == len(both)


@given(target=targets(), seed=SEEDS)
def test_a_mask_prompt_is_finite_and_shows_something(target: Target, seed: int) -> None:
    logits = perturbed_mask_logits(target.mask, target.size, np.random.default_rng(seed))
    assert logits.shape == (SIDE // 4, SIDE // 4)
    assert logits.dtype == np.float32
    assert (np.abs(logits) <= LOGIT).all()
    assert logits.max() > -LOGIT


@given(target=targets(), seed=SEEDS, kind=KINDS)
@settings(max_examples=50)
def test_a_prompt_is_a_function_of_its_generator(target: Target, seed: int, kind: str) -> None:
    one, two = (random_prompt(target, only(kind), np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(one.points, two.points)
    assert np.array_equal(one.labels, two.labels)
    if one.mask is not None:
        assert np.array_equal(one.mask, two.mask)


def disc(radius: int, side: int = 128) -> Target:
    y, x = np.ogrid[:side, :side]
    mask = (y - side // 2) ** 2 + (x - side // 2) ** 2 <= radius**2
    return Target(mask, (side, side))


def test_mask_prompts_are_near_the_truth_and_rarely_equal_to_it() -> None:
    target = disc(30)
    truth = cv2.resize(target.mask.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA) > 0.5
    found = [
        iou(perturbed_mask_logits(target.mask, target.size, np.random.default_rng(seed)) > 0, truth)
        for seed in range(100)
    ]
    assert min(found) > 0.4
    assert 0.6 < np.mean(found) < 0.9
    assert max(found) > 0.9


def test_a_mask_prompt_does_not_reach_into_the_padding() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 10:60] = True  # touches the end of an image of 40 rows
    for seed in range(20):
        logits = perturbed_mask_logits(mask, (40, 64), np.random.default_rng(seed))
        assert (logits[13:] < 0).all()  # row 10 is the first of padding; blur reaches beyond it


def test_random_points_reach_every_pixel_and_interior_points_one() -> None:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[4:7, 8:11] = True
    target = Target(mask, (SIDE, SIDE))
    seen = {
        kind: {
            tuple(random_prompt(target, only(kind), np.random.default_rng(seed)).points[0])
            for seed in range(100)
        }
        for kind in ("point", "interior_point")
    }
    assert len(seen["point"]) == 9
    assert seen["interior_point"] == {(9.0, 5.0)}


def test_negative_points_lie_near_the_segment() -> None:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[10:14, 10:18] = True
    near = surroundings(Target(mask, (SIDE, SIDE)))
    assert bounding_box(near) == (6, 8, 22, 16)
    assert near.sum() == 16 * 8 - 4 * 8


def test_without_background_near_it_negative_points_lie_anywhere() -> None:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[:20] = True
    assert surroundings(Target(mask, (SIDE, SIDE)))[20:30].all()
    full = np.ones((SIDE, SIDE), dtype=bool)
    assert not surroundings(Target(full, (SIDE, SIDE))).any()
    # Padding is no background.
    padded = np.zeros((SIDE, SIDE), dtype=bool)
    padded[:20] = True
    assert not surroundings(Target(padded, (20, SIDE))).any()


def test_shares_are_probabilities_after_normalisation() -> None:
    shares = {"box": 1.0, "point": 0.0, "interior_point": 2.0, "points": 2.0, "mask": 5.0}
    rng, target = np.random.default_rng(0), disc(5, 32)
    prompts = [random_prompt(target, Prompts(**shares), rng) for _ in range(2000)]
    masks = np.mean([p.mask is not None for p in prompts])
    several = np.mean([(p.labels == 1).sum() > 1 for p in prompts])
    boxes = np.mean([(p.labels == 2).any() for p in prompts if p.mask is None])
    assert masks == pytest.approx(0.5, abs=0.04)
    assert several == pytest.approx(0.2, abs=0.04)
    assert boxes == pytest.approx(0.2, abs=0.04)  # 1 of the remaining 5 parts


def test_a_share_of_zero_changes_nothing_for_the_others() -> None:
    """The draws are those of runs from before there were more kinds than box and point."""
    target = disc(8, 32)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        is_box = rng.random() < 0.25
        kind = jittered_box if is_box else TRAINING_PROMPTS["point"]
        expected = kind(target, Prompts(), rng)
        found = random_prompt(target, Prompts(box=1, point=3), np.random.default_rng(seed))
        assert np.array_equal(found.points, expected.points)
        assert np.array_equal(found.labels, expected.labels)


def test_every_share_has_a_function() -> None:
    assert list(Prompts().shares) == list(TRAINING_PROMPTS)
