import numpy as np
import pytest
from scipy import ndimage

from mobile_sam.data.masks import (
    bounding_box,
    boxes_and_areas,
    decode,
    encode,
    interior_point,
    run_lengths,
    squared_depth,
)


def test_codes_are_lossless() -> None:
    mask = np.random.default_rng(0).random((37, 53)) < 0.3
    assert np.array_equal(decode(encode(mask), mask.shape), mask)


def test_bounding_box_is_exclusive_at_its_end() -> None:
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:5, 3:9] = True
    assert bounding_box(mask) == (3, 2, 9, 5)
    with pytest.raises(ValueError, match="empty"):
        bounding_box(np.zeros((3, 3), dtype=bool))


def test_interior_point_lies_deepest() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:14, 4:13] = True  # a square whose centre is (8, 9)
    mask[9, 13:28] = True  # with a thin tail
    assert interior_point(mask) == (8, 9)


def test_the_border_of_the_image_counts_as_background() -> None:
    mask = np.ones((5, 5), dtype=bool)
    assert interior_point(mask) == (2, 2)


def test_an_image_may_have_more_than_255_segments() -> None:
    mask = np.zeros((5, 8), dtype=bool)
    mask[1:3, 2:7] = True
    boxes, areas = boxes_and_areas([encode(mask)] * 300, mask.shape)
    assert boxes.tolist() == [[2, 1, 7, 3]] * 300
    assert areas.tolist() == [10] * 300


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_run_lengths_are_those_of_the_columns(share: float) -> None:
    mask = np.random.default_rng(1).random((37, 53)) < share
    runs = run_lengths(encode(mask))
    assert np.array_equal(np.repeat(np.arange(len(runs)) % 2 == 1, runs), mask.T.ravel())
    assert (runs[1:] > 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_depths_are_those_of_another_distance_transform(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.normal(size=(40, 57)), 1 + seed) > 0.02 * seed
    expected = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] ** 2
    assert np.abs(squared_depth(mask) - expected).max() < 1e-9
    assert not squared_depth(np.zeros_like(mask)).any()
