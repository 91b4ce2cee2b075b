"""Changes of images: by hand, within their bounds, and image and masks always together."""

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mobile_sam.config.sections import Augment, Data, Prompts
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index
from mobile_sam.data.sampling.augment import (
    COLOURS,
    Pixels,
    colour_jitter,
    full_view,
    random_rescale,
)
from mobile_sam.data.sampling.dataset import Sample, TrainingSet
from tests.helpers.equality import same_samples


def pixels_of(seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def generators(seed: int) -> Callable[[str], np.random.Generator]:
    return lambda name: np.random.default_rng([seed, *name.encode()])


def test_colours_by_hand() -> None:
    pixels = np.array([[[100, 50, 200], [10, 250, 30]]], dtype=np.uint8)
    assert COLOURS["brightness"](pixels, 0.5).tolist() == [[[150, 75, 255], [15, 255, 45]]]
    # Greys are 82 and 153, their mean 117.5; half the contrast is half the way to it.
    half = COLOURS["contrast"](pixels, -0.5).astype(float)
    assert np.abs(half - (pixels + 117.5) / 2).max() <= 1
    greyed = COLOURS["saturation"](pixels, -1.0)
    assert greyed.tolist() == [[[82] * 3, [153] * 3]]
    turned = COLOURS["hue"](pixels, 0.25)[0, 0] / 255
    h, s, v = colorsys.rgb_to_hsv(*(pixels[0, 0] / 255))
    assert np.abs(turned - colorsys.hsv_to_rgb(h + 0.25, s, v)).max() < 0.003


@pytest.mark.parametrize("name", COLOURS)
def test_no_change_changes_nothing(name: str) -> None:
    pixels = pixels_of()
    after = COLOURS[name](pixels, 0.0)
    assert after.dtype == np.uint8
    assert np.abs(after.astype(int) - pixels).max() == 0


def test_a_turn_of_hues_leaves_grey_alone_and_a_full_turn_everything() -> None:
    grey = np.repeat(pixels_of()[..., :1], 3, axis=2)
    assert np.array_equal(COLOURS["hue"](grey, 0.3), grey)
    forward, backward = (COLOURS["hue"](pixels_of(), change) for change in (0.5, -0.5))
    assert np.array_equal(forward, backward)


@given(seed=st.integers(0, 2**32), largest=st.floats(0.01, 0.99))
def test_brightness_keeps_its_bounds(seed: int, largest: float) -> None:
    pixels = np.full((2, 2, 3), 100, dtype=np.uint8)
    after = colour_jitter(pixels, Augment(brightness=largest), generators(seed))
    assert int(100 * (1 - largest)) <= after.min()
    assert after.max() <= 100 * (1 + largest)


@given(
    seed=st.integers(0, 2**32),
    scale=st.floats(0, 0.99),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
)
def test_scale_keeps_its_bounds(seed: int, scale: float, height: int, width: int) -> None:
    everything = full_view((height, width), 64)
    found = random_rescale(everything, scale, np.random.default_rng(seed))
    assert max(1, round(64 * (1 - scale)) - 1) <= found.longest <= 64
    for (first, end), length in ((found.rows, height), (found.columns, width)):
        assert 0 <= first < end <= length
        assert end - first >= int(length / (1 + scale))
    # Either smaller as a whole, or a part at full size.
    assert found.longest == 64 or (found.rows, found.columns) == ((0, height), (0, width))


def test_scale_goes_both_ways() -> None:
    everything = full_view((100, 100), 64)
    found = [random_rescale(everything, 0.5, np.random.default_rng(seed)) for seed in range(100)]
    smaller = [g.longest for g in found if g.longest < 64]
    sides = [g.rows[1] - g.rows[0] for g in found if g.longest == 64]
    assert 30 < len(smaller) < 70
    assert min(smaller) < 36
    assert min(sides) < 72  # 100 / 1.5 is 67


def record_of(directory: Path, masks: list[np.ndarray]) -> Index:
    """A data set of one image that is white on its masks and black elsewhere."""
    for split in ("train", "val"):
        (directory / split / "image").mkdir(parents=True)
        (directory / split / "mask" / "a").mkdir(parents=True)
        white = np.uint8(255) * np.any(masks, axis=0)
        Image.fromarray(white).convert("RGB").save(directory / split / "image" / "a.png")
        for number, mask in enumerate(masks):
            Image.fromarray(mask).save(directory / split / "mask" / "a" / f"{number}.png")
    places = {s: (directory / s / "image", directory / s / "mask") for s in ("train", "val")}
    index_dataset(places, directory / "index.parquet", Data(duplicates="allow"))
    return Index(directory / "index.parquet", "train")


def squares(*corners: tuple[int, int], side: int = 40) -> list[np.ndarray]:
    masks = []
    for y, x in corners:
        mask = np.zeros((96, 160), dtype=bool)
        mask[y : y + side, x : x + side] = True
        masks.append(mask)
    return masks


def samples(index: Index, augment: Augment, count: int, **changes: object) -> list[Sample]:
    settings: dict[str, object] = {"objects_per_image": 1, "prompts": Prompts(), **changes}
    dataset = TrainingSet(index, 64, augment=augment, seed=0, **settings)  # type: ignore[arg-type]
    return [dataset[epoch * len(dataset)] for epoch in range(count)]


def white(sample: Sample) -> torch.Tensor:
    return (sample.image.float().mean(0) > 127) & sample.valid


@pytest.mark.parametrize("augment", [Augment(scale=0.6), Augment(scale=0.6, flip=True)])
def test_image_and_masks_are_rescaled_together(tmp_path: Path, augment: Augment) -> None:
    index = record_of(tmp_path, squares((20, 30)))
    extents = set()
    for sample in samples(index, augment, 40):
        mask = sample.masks[0]
        # Half of what a shift by one pixel would make.
        assert (white(sample) ^ mask).sum() <= mask.sum().sqrt()
        assert not (mask & ~sample.valid).any()
        assert not sample.image[:, ~sample.valid].any()
        extents.add(int(sample.valid.any(0).sum()))
    assert min(extents) < 40
    assert max(extents) == 64


def test_a_crop_shows_an_object_at_the_resolution_of_the_image(tmp_path: Path) -> None:
    index = record_of(tmp_path, squares((0, 0), (0, 120), (56, 60), side=20))
    places = set()
    for sample in samples(index, Augment(crop=True), 60, objects_per_image=3):
        assert sample.valid.all(), "the frame is filled"
        assert not (sample.masks.any(0) & ~white(sample)).any()
        assert sample.masks.flatten(1).sum(1).max() > 20 * 20 / 4, "the centre of one is inside"
        assert sample.masks.flatten(1).sum(1).max() <= 20 * 20, "it is not enlarged"
        places.add(tuple(sample.masks[0].nonzero()[0].tolist()))
    assert len(places) > 20
    for sample in samples(index, Augment(crop=True, scale=0.5, flip=True), 60):
        assert (white(sample) ^ sample.masks.any(0)).sum() < 3 * 900
        assert sample.masks.any()


def test_an_image_no_larger_than_the_frame_is_not_cropped(index: Index) -> None:
    for before, after in zip(
        samples(index, Augment(), 5), samples(index, Augment(crop=True), 5), strict=True
    ):
        assert same_samples(before, after)


def test_segments_outside_the_crop_are_not_chosen(tmp_path: Path) -> None:
    index = record_of(tmp_path, squares((0, 0), (0, 120), (56, 0), (56, 120), side=20))
    seen = set()
    for sample in samples(index, Augment(scale=0.9), 60, objects_per_image=4):
        areas = sample.masks.sum((1, 2))
        assert (areas > 0).all()
        assert not (sample.masks.any(0) & ~white(sample)).sum() > 8  # masks are of what shows
        seen.add(len(sample.masks.unique(dim=0)))
    assert len(seen) > 1  # sometimes some are out of sight, and others repeat


def test_where_a_crop_shows_no_segment_the_whole_image_is_shown(tmp_path: Path) -> None:
    index = record_of(tmp_path, squares((0, 0), side=4))
    found = samples(index, Augment(scale=0.9), 60)
    assert all(sample.masks.any() for sample in found)
    whole_image = samples(index, Augment(), 1)[0].image
    assert sum(torch.equal(sample.image, whole_image) for sample in found) > 5


def test_a_mirrored_sample_reads_the_features_of_the_mirrored_image(tmp_path: Path) -> None:
    index = record_of(tmp_path, squares((20, 10)))
    features = {"identity": {"neck": torch.zeros(2)}, "hflip": {"neck": torch.ones(2)}}
    found = samples(
        index, Augment(flip=True), 30, read_features=lambda record, view: features[view]
    )
    plain = samples(index, Augment(), 1)[0]
    mirrored = [bool(sample.teacher["neck"].all()) for sample in found]
    assert 5 < sum(mirrored) < 25
    for sample, was in zip(found, mirrored, strict=True):
        width = int(plain.valid.any(0).sum())
        shown = plain.masks[..., :width]
        assert torch.equal(sample.masks[..., :width], shown.flip(-1) if was else shown)


COLOUR_CHANGES = [{"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.3}]


@pytest.fixture
def index(scenes: Path, tmp_path: Path) -> Index:
    places = {s: (scenes / s / "image", scenes / s / "mask") for s in ("train", "val")}
    index_dataset(places, tmp_path / "index.parquet")
    return Index(tmp_path / "index.parquet", "train")


@pytest.mark.parametrize("change", COLOUR_CHANGES)
def test_a_change_of_colour_moves_nothing_else(index: Index, change: dict[str, float]) -> None:
    base = {"flip": True, "scale": 0.4}
    for before, after in zip(
        samples(index, Augment(**base), 5),
        samples(index, Augment(**base, **change), 5),
        strict=True,
    ):
        assert not torch.equal(before.image, after.image)
        assert torch.equal(before.masks, after.masks)
        assert torch.equal(before.points, after.points)
        assert torch.equal(before.seed, after.seed)


def test_scale_moves_no_draw_of_others(index: Index) -> None:
    """With a scale of almost nothing everything else stays where it was."""
    base = Augment(flip=True, brightness=0.3)
    tiny = base.model_copy(update={"scale": 1e-6})
    for before, after in zip(samples(index, base, 5), samples(index, tiny, 5), strict=True):
        assert torch.equal(before.image, after.image)
        assert torch.equal(before.points, after.points)


@pytest.mark.parametrize(
    "change", [{"scale": 0.4}, {"flip": True}, {"brightness": 0.3}, *COLOUR_CHANGES]
)
def test_each_augmentation_changes_the_image_and_is_seeded(
    index: Index, change: dict[str, float]
) -> None:
    plain = samples(index, Augment(), 6)
    one, two = (samples(index, Augment(**change), 6) for _ in range(2))
    assert any(not torch.equal(a.image, b.image) for a, b in zip(plain, one, strict=True))
    for a, b in zip(one, two, strict=True):
        assert same_samples(a, b)
