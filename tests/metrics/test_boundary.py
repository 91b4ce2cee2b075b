"""Boundary measures, compared with plain computations on the whole image."""

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import dilation, disk

from mobile_sam.metrics import boundary_f, boundary_iou
from tests.helpers.mask_pairs import SIZES, Mask, blobs, pairs

Measure = Callable[[Mask, Mask], float]
CASES = [*SIZES, (400, 30), (300, 500)]
TINY = [(1, 1), (2, 2)]  # too small for anything between 0 and 1


def band(mask: Mask) -> Mask:
    """Eroded pixel by pixel, as the authors of boundary IoU do; all but the mask is background."""
    width = max(1, round(0.02 * math.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))
    inside = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)
    return mask & ~inside


def plain_boundary_iou(prediction: Mask, truth: Mask) -> float:
    predicted, true = band(prediction), band(truth)
    union = (predicted | true).sum()
    return (predicted & true).sum() / union if union else 1.0


def contour(mask: Mask) -> Mask:
    """Where a window of 2 x 2 pixels, its upper left one given, is not all the same."""
    window = {"size": 2, "origin": -1, "mode": "nearest"}
    return ndimage.maximum_filter(mask, **window) != ndimage.minimum_filter(mask, **window)


def plain_boundary_f(prediction: Mask, truth: Mask) -> float:
    radius = int(np.ceil(0.008 * np.linalg.norm(truth.shape)))
    predicted, true = contour(prediction), contour(truth)
    if not predicted.any() and not true.any():
        return float((prediction == truth).all())
    if not predicted.any() or not true.any():
        return 0.0
    precision = (predicted & dilation(true, disk(radius, dtype=bool))).sum() / predicted.sum()
    recall = (true & dilation(predicted, disk(radius, dtype=bool))).sum() / true.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("size", CASES)
def test_boundary_iou_is_that_of_plain_erosion(size: tuple[int, int]) -> None:
    found = []
    for name, prediction, truth in pairs(size):
        found.append(boundary_iou(prediction, truth))
        assert found[-1] == plain_boundary_iou(prediction, truth), name
    assert len(found) > 100
    assert size in TINY or any(0 < value < 1 for value in found)


@pytest.mark.parametrize("size", CASES)
def test_boundary_f_is_that_of_dilation_by_disks(size: tuple[int, int]) -> None:
    found = []
    for name, prediction, truth in pairs(size):
        found.append(boundary_f(prediction, truth))
        assert found[-1] == pytest.approx(plain_boundary_f(prediction, truth), abs=1e-12), name
    assert len(found) > 100
    assert size in TINY or any(0 < value < 1 for value in found)


def test_boundary_iou_by_hand() -> None:
    """In 100 x 100 pixels the band is 0.02 * 141 = 3 pixels wide."""
    truth = np.zeros((100, 100), dtype=bool)
    truth[20:40, 20:40] = True
    prediction = np.roll(truth, 1, axis=1)
    ring = 20**2 - 14**2
    # One column less of each horizontal side; of the vertical ones 2 of 3 columns, 14 pixels long.
    both = 2 * 3 * 19 + 2 * 2 * 14
    assert boundary_iou(prediction, truth) == pytest.approx(both / (2 * ring - both))
    assert boundary_iou(truth, truth) == 1.0


def test_a_large_mask_with_a_poor_outline_is_told_apart() -> None:
    truth = np.zeros((200, 200), dtype=bool)
    truth[20:180, 20:180] = True
    prediction = ndimage.binary_dilation(truth, np.ones((3, 3)), iterations=6)
    assert (truth & prediction).sum() / (truth | prediction).sum() > 0.85
    assert boundary_iou(prediction, truth) == boundary_f(prediction, truth) == 0.0


def test_the_border_of_the_image_is_outline_for_boundary_iou_only() -> None:
    left = np.zeros((100, 100), dtype=bool)
    left[:, :50] = True
    band_of_3 = 2 * 3 * 50 + 2 * 3 * 94  # a frame around 100 x 50 pixels, with both short sides
    assert band(left).sum() == band_of_3
    right = ~left
    assert boundary_f(left, right) == 1.0  # one contour
    assert boundary_iou(left, right) == 0.0


def test_masks_without_contour() -> None:
    for size in ((1, 1), (5, 9), (200, 300)):
        empty = np.zeros(size, dtype=bool)
        one = empty.copy()
        one[0, 0] = True
        for measure in (boundary_iou, boundary_f):
            assert measure(empty, empty) == measure(~empty, ~empty) == 1.0
            assert measure(empty, ~empty) == measure(~empty, empty) == 0.0
            assert measure(empty, one) == measure(one, empty) == 0.0


def test_the_widths_are_of_the_image_and_not_of_the_crop() -> None:
    small = np.zeros((40, 40), dtype=bool)
    small[10:30, 10:30] = True
    moved = np.roll(small, 3, axis=0)
    large, large_moved = (np.pad(mask, 400) for mask in (small, moved))
    assert boundary_f(small, moved) < boundary_f(large, large_moved) == 1.0
    assert boundary_iou(small, moved) < boundary_iou(large, large_moved)
    assert boundary_iou(large, large_moved) == plain_boundary_iou(large, large_moved)


@pytest.mark.parametrize("measure", [boundary_iou, boundary_f])
def test_the_input_stays_as_it_is(measure: Measure) -> None:
    prediction, truth = (blobs((50, 70), np.random.default_rng(seed)) for seed in (0, 1))
    kept = prediction.copy(), truth.copy()
    measure(prediction, truth)
    assert np.array_equal(prediction, kept[0])
    assert np.array_equal(truth, kept[1])


def test_a_small_object_in_a_large_image_costs_milliseconds() -> None:
    truth = np.zeros((4000, 4000), dtype=bool)
    truth[1000:1200, 3000:3300] = True
    prediction = np.asfortranarray(np.roll(truth, 4, axis=0))
    began = time.perf_counter()
    for _ in range(10):
        boundary_iou(prediction, truth)
        boundary_f(prediction, truth)
    assert time.perf_counter() - began < 2.0
