"""Synthetic scenes: functions of their seeds, with disjoint masks, and cells unlike their boxes."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.config.sections import SceneObjects
from mobile_sam.data.masks import Mask, bounding_box
from mobile_sam.data.synthetic import scene, scene_of_cells, write_scenes

DRAWN = {"shapes": scene, "cells": scene_of_cells}
# Digest of a scene of shapes (128 pixels, seed [0, 3]) from the code that drew nothing else.
SHAPES = "21802a8c3b74b1612ae5cdfea5d72810f64bee50af1d05be455f08d75d7215bc"


def cells(number: int) -> tuple[NDArray[np.uint8], list[Mask]]:
    return scene_of_cells(128, np.random.default_rng([0, number]))


def fill(mask: Mask) -> float:
    left, top, right, bottom = bounding_box(mask)
    return float(np.count_nonzero(mask) / ((right - left) * (bottom - top)))


@pytest.mark.parametrize("objects", ["shapes", "cells"])
def test_a_scene_is_a_function_of_its_seed(objects: SceneObjects) -> None:
    pixels, masks = DRAWN[objects](128, np.random.default_rng([0, 3]))
    again, same = DRAWN[objects](128, np.random.default_rng([0, 3]))
    other, _ = DRAWN[objects](128, np.random.default_rng([0, 4]))
    assert np.array_equal(pixels, again)
    assert np.array_equal(masks, same)
    assert not np.array_equal(pixels, other)


def test_scenes_of_shapes_are_what_they_were_before_there_were_cells() -> None:
    pixels, masks = scene(128, np.random.default_rng([0, 3]))
    assert hashlib.sha256(pixels.tobytes() + np.stack(masks).tobytes()).hexdigest() == SHAPES


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("objects", ["shapes", "cells"])
def test_masks_of_a_scene_are_visible_and_disjoint(objects: SceneObjects, size: int) -> None:
    for number in range(20):
        pixels, masks = DRAWN[objects](size, np.random.default_rng([0, number]))
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8
        assert len(masks) <= 7
        for mask in masks:
            assert mask.shape == (size, size)
            assert np.count_nonzero(mask) >= 40
        if masks:
            assert np.sum(masks, axis=0).max() == 1


def test_cells_fill_half_of_their_boxes() -> None:
    """The filled box, the baseline without a model, is far from the truth."""
    fills = [fill(mask) for number in range(50) for mask in cells(number)[1]]
    assert len(fills) > 200
    assert 0.4 < np.mean(fills) < 0.6


def test_a_scene_has_four_to_seven_cells_that_are_brighter_than_the_background() -> None:
    for number in range(20):
        pixels, masks = cells(number)
        assert 4 <= len(masks) <= 7
        background = ~np.any(masks, axis=0)
        brightest = max(pixels[mask].mean() for mask in masks)
        assert brightest > pixels[background].mean() + 20


@pytest.mark.parametrize("objects", ["shapes", "cells"])
def test_files_are_those_of_the_scenes(objects: SceneObjects, tmp_path: Path) -> None:
    write_scenes(tmp_path, 2, 64, seed=5, objects=objects)
    assert len(list((tmp_path / "image").iterdir())) == 2
    for number in range(2):
        pixels, masks = DRAWN[objects](64, np.random.default_rng([5, number]))
        name = f"scene_{number:05d}"
        assert np.array_equal(np.asarray(Image.open(tmp_path / "image" / f"{name}.png")), pixels)
        files = sorted((tmp_path / "mask" / name).iterdir())
        assert len(files) == len(masks)
        for file, mask in zip(files, masks, strict=True):
            assert np.array_equal(np.asarray(Image.open(file)) > 0, mask)
