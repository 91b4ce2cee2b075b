"""What holds for every mask, tried on random ones."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage

from mobile_sam.config.sections import Data
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index
from mobile_sam.data.masks import (
    bounding_box,
    boxes_and_areas,
    check_code,
    decode,
    encode,
    encode_labels,
    encode_runs,
    split_labels,
)
from tests.helpers import formats

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@st.composite
def masks(draw: Any) -> np.ndarray:
    """Noise, or unions of rectangles, of any size; not empty."""
    size = draw(SIZES)
    if draw(st.booleans()):
        mask = draw(hnp.arrays(bool, size))
    else:
        mask = np.zeros(size, dtype=bool)
        for _ in range(draw(st.integers(1, 4))):
            y, x = (draw(st.integers(0, side - 1)) for side in size)
            height, width = draw(SIZES)
            mask[y : y + height, x : x + width] = True
    mask[draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))] = True
    return mask


@st.composite
def label_maps(draw: Any) -> np.ndarray:
    """Up to six segments that do not overlap; each value up to the largest has a pixel."""
    size = draw(st.tuples(st.integers(3, 24), st.integers(3, 24)))
    labels = draw(hnp.arrays(np.uint8, size, elements=st.integers(0, 6)))
    labels[0, 0] = 1
    return np.searchsorted(np.unique(np.r_[0, labels.ravel()]), labels).astype(np.uint8)


@given(masks())
def test_a_code_gives_its_mask_back(mask: np.ndarray) -> None:
    code = encode(mask)
    assert check_code(code, mask.shape) == code
    assert np.array_equal(decode(code, mask.shape), mask)
    assert encode_runs(formats.run_length_code(mask, False)["counts"], mask.shape) == code


@given(masks())
def test_boxes_and_areas_of_codes_are_those_of_masks(mask: np.ndarray) -> None:
    boxes, areas = boxes_and_areas([encode(mask)], mask.shape)
    assert tuple(boxes[0].tolist()) == bounding_box(mask)
    assert areas[0] == mask.sum()


@given(
    hnp.arrays(st.sampled_from([np.uint8, np.uint32, np.int64]), SIZES, elements=st.integers(0, 9))
)
def test_codes_of_labels_are_those_of_their_masks(labels: np.ndarray) -> None:
    values = [value for value in np.unique(labels).tolist() if value]
    assert encode_labels(labels) == [(value, encode(labels == value)) for value in values]


@given(hnp.arrays(np.uint8, SIZES, elements=st.integers(0, 3)))
def test_components_are_those_of_scipy(labels: np.ndarray) -> None:
    numbers, values = split_labels(labels)
    expected = [
        (value, encode(parts == part))
        for value in np.unique(labels).tolist()
        if value
        for parts, count in [ndimage.label(labels == value)]
        for part in range(1, count + 1)
    ]
    codes = [code for _, code in encode_labels(numbers)]
    assert list(zip(values, codes, strict=True)) == expected


@given(masks(), st.data())
def test_a_code_of_another_number_of_pixels_is_refused(mask: np.ndarray, data: Any) -> None:
    height, width = mask.shape
    other = data.draw(SIZES.filter(lambda size: size[0] * size[1] != height * width))
    with pytest.raises(ValueError, match="export it again"):
        check_code(encode(mask), other)


@given(masks(), st.binary(max_size=60))
def test_any_bytes_are_a_code_of_the_size_or_refused(mask: np.ndarray, counts: bytes) -> None:
    try:
        check_code(counts, mask.shape)
    except ValueError:
        return
    assert decode(counts, mask.shape).shape == mask.shape


@settings(max_examples=25, deadline=None)
@given(st.lists(label_maps(), min_size=2, max_size=3))
def test_label_maps_directories_and_coco_give_the_same_objects(maps: list[np.ndarray]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_directories(directory / "train", maps)
        write_directories(directory / "val", maps[:1])
        found = [objects(directory, {s: directory / s / "mask" for s in ("train", "val")})]
        for rewrite in (formats.as_coco, formats.as_label_maps):
            found.append(objects(directory, {s: rewrite(directory / s) for s in ("train", "val")}))
    assert found[0] == found[1] == found[2]
    assert sum(map(len, found[0])) == sum(int(labels.max()) for labels in maps)


def write_directories(split: Path, maps: list[np.ndarray]) -> None:
    for number, labels in enumerate(maps):
        directory = split / "mask" / f"{number}"
        directory.mkdir(parents=True)
        (split / "image").mkdir(exist_ok=True)
        Image.new("RGB", labels.shape[::-1]).save(split / "image" / f"{number}.png")
        for value in range(1, int(labels.max()) + 1):
            Image.fromarray(labels == value).save(directory / f"{value}.png")


def objects(directory: Path, mask_places: dict[str, Path]) -> list[list[tuple[Any, ...]]]:
    sources = {split: (directory / split / "image", place) for split, place in mask_places.items()}
    index_dataset(sources, directory / "index.parquet", Data(duplicates="allow"))
    index = Index(directory / "index.parquet", "train")
    return [[(s.rle, s.box, s.area) for s in index[i].segments] for i in range(len(index))]
