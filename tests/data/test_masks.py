import math

import numpy as np
import pytest
from pycocotools import mask as coco
from scipy import ndimage

from mobile_sam.data.masks import (
    bounding_box,
    boxes_and_areas,
    decode,
    decode_crop,
    deepest_pixel,
    encode,
    encode_crop,
    encode_polygons,
    interior_point,
    run_lengths,
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


@pytest.mark.parametrize("size", [(40, 57), (230, 310)])
@pytest.mark.parametrize("seed", range(6))
def test_the_deepest_pixel_is_that_of_another_distance_transform(
    seed: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.normal(size=size), 1 + 2 * seed) > 0.02 * seed - 0.04
    depths = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] ** 2
    taken: list[tuple[int, int]] = []
    for _ in range(20):
        rounded = np.rint(depths)
        y, x = np.unravel_index(rounded.argmax(), mask.shape)
        assert deepest_pixel(mask, taken) == (rounded[y, x], x, y)
        taken.append((int(x), int(y)))
        depths[y, x] = 0


def test_without_a_pixel_to_take_none_is_deepest() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    assert deepest_pixel(mask) == (0, 0, 0)
    mask[2, 3] = True
    assert deepest_pixel(mask) == (1, 3, 2)
    assert deepest_pixel(mask, [(3, 2)]) == (0, 0, 0)


@pytest.mark.parametrize("box", [(3, 2, 9, 5), (0, 0, 12, 10), (3, 0, 10, 5)])
def test_a_code_is_decoded_in_a_box(box: tuple[int, int, int, int]) -> None:
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:5, 3:9] = np.random.default_rng(0).random((3, 6)) < 0.5
    mask[[2, 4], [3, 8]] = True
    crop = decode_crop(encode(mask), (10, 12), box)
    assert crop.box == (3, 2, 9, 5)
    np.testing.assert_array_equal(crop.pixels, mask[2:5, 3:9])
    assert encode_crop(crop) == encode(mask)
    empty = decode_crop(encode(mask), (10, 12), (0, 0, 3, 10))
    assert empty.area == 0
    assert encode_crop(empty) == encode(np.zeros_like(mask))


@pytest.mark.parametrize(
    ("x", "y"), [(17.0, 4), (-8.5, 4), (4, 12.5), (4, -6.5), (math.nan, 4), (math.inf, 4)]
)
def test_a_point_of_a_polygon_far_from_the_image_is_named(x: float, y: float) -> None:
    encode_polygons([[-8, -6, 16, -6, 16, 12]], (6, 8))  # as far away as may be
    with pytest.raises(
        ValueError, match=rf"a point at \({x:g}, {y:g}\), far from its image of 8x6"
    ):
        encode_polygons([[1, 1, 5, 1, x, y]], (6, 8))


def test_areas_and_boxes_of_many_codes_are_in_their_order() -> None:
    masks = [np.zeros((20, 30), dtype=bool) for _ in range(600)]
    for number, mask in enumerate(masks):
        mask.T.flat[: number + 1] = True
    boxes, areas = boxes_and_areas([encode(mask) for mask in masks], (20, 30))
    assert areas.tolist() == list(range(1, 601))
    assert boxes[[0, 25, 599]].tolist() == [[0, 0, 1, 1], [0, 0, 2, 20], [0, 0, 30, 20]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 9)])
def test_a_code_is_that_of_pycocotools(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random((2 * shape[0], 3 * shape[1]))[::2, ::3] < 0.5
    expected = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    assert encode(mask) == encode(np.asfortranarray(mask)) == expected
