from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.plugins import DoublePrecision
from PIL import Image

from mobile_sam.config.sections import Augment, Data, Prompts
from mobile_sam.data.images import RecordError
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index
from mobile_sam.data.masks import bounding_box, interior_point
from mobile_sam.data.sampling import dataset
from mobile_sam.data.sampling.dataset import (
    TrainingSet,
    ValidationSet,
    collate,
    validation_positions,
)
from mobile_sam.data.sampling.prompts import Target, deepest_point, exact_box, random_prompt
from mobile_sam.data.synthetic import scene
from mobile_sam.data.transforms import (
    PIXEL_MEAN,
    PIXEL_STD,
    image_to_model_frame,
    mask_to_model_frame,
)
from tests.helpers.equality import same_samples


@pytest.fixture(scope="module")
def index(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    target = tmp_path_factory.mktemp("index") / "index.parquet"
    index_dataset(
        {s: (scenes / s / "image", scenes / s / "mask") for s in ("train", "val")}, target
    )
    return Index(target, "train")


def training_set(index: Index, **changes: object) -> TrainingSet:
    settings = {"img_size": 64, "objects_per_image": 3, "prompts": Prompts()}
    settings |= {"augment": Augment(), "seed": 0, **changes}
    return TrainingSet(index, **settings)  # type: ignore[arg-type]


def test_shapes(index: Index) -> None:
    batch = collate([training_set(index)[i] for i in range(2)])
    assert batch.image.shape == (2, 3, 64, 64)
    assert batch.masks.shape == (2, 3, 64, 64)
    assert batch.points.shape == (2, 3, 2, 2)
    assert batch.labels.shape == (2, 3, 2)


def test_a_sample_is_a_function_of_seed_epoch_and_position(index: Index) -> None:
    first, second = training_set(index), training_set(index)
    for position in (5, 1, 7):  # reading others before changes nothing
        first[position]
    assert same_samples(first[2], second[2])
    assert not same_samples(first[2], second[len(second) + 2])
    assert not same_samples(first[2], training_set(index, seed=1)[2])


def test_prompts_point_at_their_masks(index: Index) -> None:
    samples = training_set(index, objects_per_image=8, prompts=Prompts(box_jitter=0.0))
    for position in range(len(samples)):
        sample = samples[position]
        for mask, points, labels in zip(sample.masks, sample.points, sample.labels, strict=True):
            if labels.tolist() == [1, -1]:
                x, y = points[0].int().tolist()
                assert mask[y, x]
            else:
                assert labels.tolist() == [2, 3]
                (x0, y0), (x1, y1) = points.int().tolist()
                assert mask[y0:y1, x0:x1].sum() == mask.sum()


def test_shares_of_prompts_are_kept(index: Index) -> None:
    only_boxes = training_set(index, prompts=Prompts(box=1, point=0))[0]
    assert (only_boxes.labels[:, 0] == 2).all()
    only_points = training_set(index, prompts=Prompts(box=0, point=2))[0]
    assert (only_points.labels[:, 0] == 1).all()


MIXED = Prompts(box=1, point=1, interior_point=1, points=1, mask=1, max_points=3)


def test_prompts_of_all_kinds_are_stacked(index: Index) -> None:
    samples = training_set(index, prompts=MIXED, objects_per_image=8)
    batch = collate([samples[i] for i in range(len(index))])
    assert batch.points.shape == (10, 8, 6, 2)  # 3 positive, 2 negative, 1 of padding
    assert batch.mask_prompts.shape == (10, 8, 1, 16, 16)
    assert batch.has_mask.dtype == torch.bool
    assert 0.05 < batch.has_mask.float().mean() < 0.4
    assert (batch.mask_prompts.abs().sum((2, 3, 4)) > 0).equal(batch.has_mask)
    assert set(batch.labels.unique().tolist()) == {-2, -1, 0, 1, 2, 3}


def test_mixed_prompts_are_a_function_of_seed_epoch_and_position(index: Index) -> None:
    first, second = (training_set(index, prompts=MIXED) for _ in range(2))
    for position in (5, 1, 7):  # reading others before changes nothing
        first[position]
    assert same_samples(first[2], second[2])
    assert not same_samples(first[2], second[len(second) + 2])


def test_a_flip_mirrors_image_and_masks_together(index: Index) -> None:
    plain = training_set(index, objects_per_image=1)
    flipping = training_set(index, objects_per_image=1, augment=Augment(flip=True))
    mirrored = 0
    for position in range(len(index)):
        before, after = plain[position], flipping[position]
        if torch.equal(before.image, after.image):
            assert torch.equal(before.masks, after.masks)
        else:
            assert torch.equal(before.image.flip(-1), after.image)
            assert torch.equal(before.masks.flip(-1), after.masks)
            mirrored += 1
    assert 0 < mirrored < len(index)


def test_validation_is_fixed_and_covers_each_prompt(index: Index) -> None:
    sample = ValidationSet(index, 64, 2, num_images=4, seed=0)[0]
    assert sample.labels[:2, 0].tolist() == [2, 2]
    assert sample.labels[2:, 0].tolist() == [1, 1]
    for mask, box, point in zip(sample.masks, sample.points[:2], sample.points[2:], strict=True):
        assert tuple(box.flatten().int().tolist()) == bounding_box(mask.numpy())
        assert tuple(point[0].int().tolist()) == interior_point(mask.numpy())


def test_validation_sees_a_sample_of_each_image_that_the_seed_draws(index: Index) -> None:
    def masks(objects: int, seed: int) -> list[torch.Tensor]:
        samples = ValidationSet(index, 64, objects, 400, seed)
        assert len(samples) == len(index)
        return [samples[number].masks for number in range(len(samples))]

    every = masks(99, seed=0)
    assert [len(found) for found in every] == [len(index[n].segments) for n in range(len(index))]
    chosen = []
    for seed in range(5):
        drawn = masks(2, seed)
        again = masks(2, seed)
        assert all(torch.equal(*pair) for pair in zip(drawn, again, strict=True))
        places = [
            [number for number, mask in enumerate(there) if any(map(mask.equal, some))]
            for some, there in zip(drawn, every, strict=True)
        ]
        assert [len(of_image) for of_image in places] == [min(2, len(there)) for there in every]
        chosen += [number for of_image in places for number in of_image]
    assert max(chosen) > 2  # the first two alone would be 0 and 1


@pytest.mark.parametrize("images", [1, 5, 31, 32, 33, 50, 1000])
def test_images_of_validation_are_spread_evenly(images: int) -> None:
    """One of each thirty-second of the index, at another place in it for each seed."""
    count = min(images, 32)
    bounds = np.arange(count + 1) * images // count
    found = [validation_positions(images, 32, seed) for seed in range(20)]
    for seed, positions in enumerate(found):
        assert ((bounds[:-1] <= positions) & (positions < bounds[1:])).all()
        assert np.array_equal(positions, validation_positions(images, 32, seed))
    if images == 1000:
        assert len(np.unique(found)) > 400
    if images <= 32:
        assert found[0].tolist() == list(range(images))


def test_padding_is_zero_after_normalisation() -> None:
    image = np.full((20, 40, 3), PIXEL_MEAN, dtype=np.uint8)
    frame = image_to_model_frame(image, 64)
    assert frame.shape == (3, 64, 64)
    assert (frame[:, 32:] == 0).all()
    assert frame[:, :32].abs().max() < 0.02


def test_images_travel_as_bytes_and_are_normalised_in_batches(index: Index) -> None:
    """Bit for bit what each image would be if it were normalised before it is padded."""
    scaled = training_set(index, augment=Augment(scale=0.6))
    batch = collate([scaled[i] for i in range(len(scaled))])
    assert batch.image.dtype == torch.uint8
    frames = batch.normalised()
    assert frames.dtype == torch.float32
    mean, std = (torch.tensor(value)[:, None, None] for value in (PIXEL_MEAN, PIXEL_STD))
    for image, (height, width), frame in zip(batch.image, batch.size.tolist(), frames, strict=True):
        expected = torch.zeros(3, 64, 64)
        expected[:, :height, :width] = (image[:, :height, :width].float() - mean) / std
        assert torch.equal(frame, expected)
    assert (batch.size < 64).any()
    with DoublePrecision().forward_context():  # as in 64-true
        assert torch.equal(batch.normalised(), frames)


def test_colours_change_after_resizing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = dataset.colour_jitter

    def look(pixels: np.ndarray, *arguments: Any) -> np.ndarray:
        seen.append(pixels.shape)
        return original(pixels, *arguments)

    monkeypatch.setattr(dataset, "colour_jitter", look)
    training_set(index, img_size=128, augment=Augment(contrast=0.5))[0]
    assert seen == [(128, 128, 3)]  # and not the 64 pixels of the file


def test_a_pixel_is_set_where_half_of_it_is() -> None:
    mask = np.zeros((128, 128), dtype=bool)
    mask[:, :63] = True  # column 31 of the model frame is half covered
    frame = mask_to_model_frame(mask, 64)
    assert frame[:, :32].all()
    assert not frame[:, 32:].any()


def test_a_segment_too_small_to_be_seen_keeps_a_pixel(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "image").mkdir(parents=True)
        (tmp_path / split / "mask" / "a").mkdir(parents=True)
        Image.new("RGB", (640, 640)).save(tmp_path / split / "image" / "a.png")
        mask = np.zeros((640, 640), dtype=bool)
        mask[333, 100] = True
        Image.fromarray(mask).save(tmp_path / split / "mask" / "a" / "0.png")
    target = tmp_path / "index.parquet"
    places = {s: (tmp_path / s / "image", tmp_path / s / "mask") for s in ("train", "val")}
    index_dataset(places, target, Data(duplicates="allow"))
    sample = training_set(Index(target, "train"))[0]
    assert sample.masks[0].nonzero().tolist() == [[33, 10]]


def test_an_image_that_changed_size_is_refused(index: Index, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    from dataclasses import replace

    from mobile_sam.data.index.table import read_indexed_image

    with pytest.raises(RecordError, match="changed since it was indexed"):
        read_indexed_image(replace(index[0], path=tmp_path / "a.png"))


def test_jitter_stays_in_the_image() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[:40, :60] = True
    settings = Prompts(box=1, point=0, box_jitter=0.5)
    for seed in range(50):
        prompt = random_prompt(Target(mask, (64, 64)), settings, np.random.default_rng(seed))
        assert (prompt.points >= 0).all()
        assert (prompt.points <= 64).all()
        assert (prompt.points[0] <= prompt.points[1]).all()


def test_fixed_prompts() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[4:9, 6:11] = True
    assert exact_box(mask).points.tolist() == [[6, 4], [11, 9]]
    assert deepest_point(mask).points[0].tolist() == [8, 6]


def test_scenes_show_what_their_masks_say() -> None:
    pixels, masks = scene(64, np.random.default_rng(3))
    assert pixels.shape == (64, 64, 3)
    assert 1 <= len(masks) <= 6
    assert np.stack(masks).sum(0).max() == 1  # visible parts do not overlap
