"""Masks that are painted one by one give what painting all of them as arrays gives."""

import cv2
import numpy as np
import pytest

from mobile_sam.data.masks import EncodedMasks, Mask, encode
from mobile_sam.data.overlays import COLOURS, blend_layers, colour_layer

SIZE = (40, 56)


def blobs(count: int, seed: int) -> list[Mask]:
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.normal(size=SIZE), (0, 0), 4) for _ in range(count)]
    return [found > np.quantile(found, rng.uniform(0.3, 1)) for found in noise]


def order(masks: list[Mask]) -> list[int]:
    return sorted(range(len(masks)), key=lambda n: -int(masks[n].sum()))


@pytest.mark.parametrize("seed", range(3))
def test_each_mask_comes_in_its_box_the_largest_first(seed: int) -> None:
    masks = [*blobs(6, seed), np.zeros(SIZE, dtype=bool), np.ones(SIZE, dtype=bool)]
    found = EncodedMasks(map(encode, masks), SIZE)
    assert len(found) == len(masks)
    for given, decoded in zip(masks, found, strict=True):
        np.testing.assert_array_equal(given, decoded)
    places = []
    for place, window, mask in found.largest_first():
        drawn = np.zeros(SIZE, dtype=bool)
        drawn[window] = mask
        np.testing.assert_array_equal(drawn, masks[place])
        assert mask[:, [0, -1]].any(0).all()
        assert mask[[0, -1]].any(1).all()
        places.append(place)
    assert places == [place for place in order(masks) if masks[place].any()]


def test_colours_are_those_of_whole_masks() -> None:
    masks = blobs(9, 5)
    expected = np.zeros(SIZE, dtype=np.uint8)
    for place in order(masks):
        mask, colour = masks[place], place % len(COLOURS)
        padded = np.pad(mask, 1).astype(np.uint8)
        inner = cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1].astype(bool)
        expected[mask] = 1 + colour
        expected[mask & ~inner] = 1 + len(COLOURS) + colour
    np.testing.assert_array_equal(colour_layer(EncodedMasks(map(encode, masks), SIZE)), expected)


def test_high_images_are_blended_as_low_ones() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (600, 7, 3)).astype(np.uint8)
    layer = rng.integers(0, 15, (600, 7)).astype(np.uint8)
    rows = [blend_layers(image[n : n + 1], layer[n : n + 1]) for n in range(600)]
    np.testing.assert_array_equal(blend_layers(image, layer), np.concatenate(rows))
