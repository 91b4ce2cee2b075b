import numpy as np
import pytest
from scipy import ndimage

from mobile_sam.data.masks import Mask, decode, encode
from mobile_sam.inference.automatic_masks import (
    fill_holes,
    remove_duplicates,
    remove_islands,
    remove_small_regions,
)
from mobile_sam.inference.grid import Crop
from mobile_sam.inference.proposals import AutomaticMask, box_and_area

SIZE = (40, 50)
WHOLE = Crop(0, 0, 50, 40, 0)


def mask_of(box: tuple[int, int, int, int]) -> Mask:
    x0, y0, x1, y1 = box
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def record(mask: Mask, iou: float = 0.9) -> AutomaticMask:
    code = encode(mask)
    box, area = box_and_area(code, SIZE, WHOLE)
    return AutomaticMask(code, area, box, iou, 1.0, (0.0, 0.0), WHOLE)


def large_regions(mask: Mask, min_area: int) -> Mask:
    """Regions of a mask that scipy finds large enough."""
    regions, count = ndimage.label(mask, np.ones((3, 3)))
    areas = ndimage.sum_labels(mask, regions, range(count + 1))
    return (areas >= min_area)[regions] & mask


@pytest.mark.parametrize("seed", range(10))
def test_small_regions_are_those_that_scipy_finds(seed: int) -> None:
    mask = np.random.default_rng(seed).random(SIZE) < (0.2 + 0.05 * seed)
    expected = large_regions(mask, 4)
    assert expected.any()
    assert np.array_equal(remove_islands(mask, 4), expected)
    assert np.array_equal(fill_holes(~mask, 4), ~expected)


def test_the_largest_region_stays_however_small() -> None:
    mask = mask_of((3, 3, 5, 5)) | mask_of((10, 10, 12, 13))
    assert np.array_equal(remove_islands(mask, 100), mask_of((10, 10, 12, 13)))


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks_have_no_small_regions(value: bool) -> None:
    mask = np.full(SIZE, value)
    assert fill_holes(mask, 9) is mask
    assert remove_islands(mask, 9) is mask


def test_a_mask_with_a_hole_and_a_speck_becomes_one_without() -> None:
    square = mask_of((10, 10, 20, 20))
    ragged = (square & ~mask_of((14, 14, 16, 16))) | mask_of((40, 30, 41, 31))
    (found,) = remove_small_regions([record(ragged)], SIZE, 5, 0.7)
    assert np.array_equal(decode(found.code, SIZE), square)
    assert (found.area, found.box) == (100, (10, 10, 19, 19))


def test_of_masks_that_become_duplicates_the_unchanged_one_stays() -> None:
    square = mask_of((10, 10, 20, 20))
    speckled = square | mask_of((40, 30, 41, 31))
    far = mask_of((30, 2, 40, 8)) & ~mask_of((33, 4, 34, 5))
    found = [record(far, 0.99), record(speckled, 0.95), record(square, 0.9)]
    assert len(remove_duplicates(found, [1, 1, 1], 0.7)) == 3
    kept = remove_small_regions(found, SIZE, 5, 0.7)
    assert [mask.predicted_iou for mask in kept] == [0.9, 0.99]  # changed ones last


def test_the_better_of_duplicates_stays() -> None:
    boxes = [(0, 0, 10, 10), (0, 0, 10, 11), (20, 0, 30, 10)]
    found = [record(mask_of(box)) for box in boxes]
    assert remove_duplicates(found, [0.5, 0.7, 0.6], 0.7) == [found[1], found[2]]
    assert remove_duplicates(found, [0.5, 0.7, 0.6], 0.95) == [found[1], found[2], found[0]]


def test_equal_scores_keep_their_order() -> None:
    found = [record(mask_of((x, y, x + 1, y + 1))) for y in range(40) for x in range(50)]
    assert remove_duplicates(found, [0.5] * len(found), 0.7) == found
    scores = [i % 3 for i in range(len(found))]
    order = sorted(range(len(found)), key=lambda i: -scores[i])
    assert remove_duplicates(found, scores, 0.7) == [found[i] for i in order]


def test_no_masks_have_no_duplicates() -> None:
    assert remove_duplicates([], [], 0.7) == []
    assert remove_small_regions([], SIZE, 5, 0.7) == []
