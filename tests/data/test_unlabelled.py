"""Images without masks: their rows in the index, and the samples that are made of them."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mobile_sam.config.sections import Augment, Data, Prompts
from mobile_sam.data.index import build
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.digest_lookup import to_hex
from mobile_sam.data.index.summary import summarise
from mobile_sam.data.index.table import UNLABELLED, ConcatIndex, DatasetError, Index, teacher_images
from mobile_sam.data.sampling.dataset import TrainingSet, collate
from mobile_sam.data.sampling.prompts import num_points, prompt_anywhere
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.report.plots.data import plot_data
from tests.helpers.equality import same_samples
from tests.helpers.formats import ids

Places = dict[str, tuple[Path, ...]]
MIXED = Prompts(box=1, point=1, interior_point=1, points=1, mask=1, max_points=3)


@pytest.fixture
def places(scenes: Path, tmp_path: Path) -> Places:
    """The scenes, and five images without masks, one of them in a directory of its own."""
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    write_scenes(data / "more", 5, 64, seed=7)
    (data / "more" / "image" / "day 2").mkdir()
    shutil.move(data / "more/image/scene_00004.png", data / "more/image/day 2/scene_00001.png")
    found: Places = {s: (data / s / "image", data / s / "mask") for s in ("train", "val")}
    return found | {UNLABELLED: (data / "more" / "image",)}


def without(places: Places) -> Places:
    return {split: found for split, found in places.items() if split != UNLABELLED}


def copied(places: Places, split: str, name: str) -> None:
    """Put the first image of a split among those without masks."""
    shutil.copy(places[split][0] / "scene_00000.png", places[UNLABELLED][0] / name)


def test_each_image_is_a_row_without_a_segment(places: Places, tmp_path: Path) -> None:
    with_them, alone = tmp_path / "with.parquet", tmp_path / "alone.parquet"
    assert index_dataset(places, with_them) == index_dataset(without(places), alone)
    assert ids(with_them, UNLABELLED) == [
        "day 2/scene_00001",
        *(f"scene_0000{i}" for i in range(4)),
    ]
    record = Index(with_them, UNLABELLED)[0]
    assert record.path == places[UNLABELLED][0] / "day 2" / "scene_00001.png"
    assert (record.size, record.segments, record.ignored) == ((64, 64), (), ())
    rows = [row for row in pq.read_table(with_them).to_pylist() if row["split"] == UNLABELLED]
    assert [row["rle"] for row in rows] == [None] * 5
    labelled = Index(with_them, "train")
    assert [labelled[i] for i in range(10)] == [Index(alone, "train")[i] for i in range(10)]


def test_what_teachers_look_at_is_both(places: Places, tmp_path: Path) -> None:
    index_dataset(places, tmp_path / "with.parquet")
    index_dataset(without(places), tmp_path / "alone.parquet")
    both, alone = (teacher_images(tmp_path / f"{n}.parquet") for n in ("with", "alone"))
    assert (len(both), len(alone)) == (15, 10)
    digests = list(map(to_hex, both.digests()))
    assert digests == [both[i].digest for i in range(15)]
    assert digests[:10] == list(map(to_hex, alone.digests()))
    assert both[9].segments
    assert not both[10].segments
    with pytest.raises(IndexError):
        both[15]


def test_images_that_train_or_validate_are_left_out_and_named(
    places: Places, tmp_path: Path
) -> None:
    target = tmp_path / "index.parquet"
    copied(places, "train", "also in training.png")
    copied(places, "val", "also in validation.png")
    index_dataset(places, target)
    assert len(Index(target, UNLABELLED)) == 5
    text = summarise(target).text()
    assert "left out of unlabelled: 1 images that train with masks (also in training)" in text
    assert "left out of unlabelled: 1 images that validate (also in validation)" in text


def test_a_training_image_without_a_segment_in_use_can_be_learned_from_without_masks(
    places: Places, tmp_path: Path
) -> None:
    target = tmp_path / "index.parquet"
    copied(places, "train", "copy.png")
    for path in (places["train"][1] / "scene_00000").iterdir():
        Image.fromarray(np.eye(64, dtype=bool)).save(path)  # 64 pixels
    index_dataset(places, target, Data(min_area=65))
    assert "scene_00000" not in ids(target, "train")
    assert "copy" in ids(target, UNLABELLED)


def test_copies_alone_are_an_error(places: Places, tmp_path: Path) -> None:
    shutil.rmtree(places[UNLABELLED][0])
    places[UNLABELLED][0].mkdir()
    with pytest.raises(DatasetError, match="more/image: there is no image"):
        index_dataset(places, tmp_path / "index.parquet")
    copied(places, "train", "copy.png")
    message = r"unlabelled: no image is left to use \(left out: 1 images that train with masks\)"
    with pytest.raises(DatasetError, match=message):
        index_dataset(places, tmp_path / "index.parquet")


def test_only_new_images_are_read_again(places: Places, tmp_path: Path, reads: list[str]) -> None:
    kept, target = tmp_path / "kept.parquet", tmp_path / "index.parquet"
    index_dataset(places, target, kept=kept)
    assert len(reads) == 18
    reads.clear()
    copied(places, "val", "new.png")
    index_dataset(places, target, kept=kept)
    assert reads == ["new"]
    assert len(Index(target, UNLABELLED)) == 5
    # What was left out as a copy is used once it is none, without being read again.
    reads.clear()
    path = places["val"][0] / "scene_00000.png"
    Image.fromarray(np.asarray(Image.open(path))[::-1].copy()).save(path)
    index_dataset(places, target, kept=kept)
    assert reads == ["scene_00000"]
    assert "new" in ids(target, UNLABELLED)
    index_dataset(places, tmp_path / "anew.parquet")
    assert target.read_bytes() == (tmp_path / "anew.parquet").read_bytes()


def test_broken_images_are_named_with_those_that_have_masks(places: Places, tmp_path: Path) -> None:
    target = tmp_path / "index.parquet"
    broken = [places["train"][0] / "scene_00003.png", places[UNLABELLED][0] / "scene_00002.png"]
    for path in broken:
        path.write_text("hello")
    with pytest.raises(DatasetError, match="2 problems") as caught:
        index_dataset(places, target, Data(max_broken=1))
    assert all(f"{path}: the image cannot be read" in str(caught.value) for path in broken)
    index_dataset(places, target, Data(max_broken=2))
    assert (len(Index(target, "train")), len(Index(target, UNLABELLED))) == (9, 4)


def test_two_files_of_one_name_are_named(places: Places, tmp_path: Path) -> None:
    first = places[UNLABELLED][0] / "day 2" / "scene_00001.png"
    shutil.copy(first, first.with_suffix(".bmp"))
    with pytest.raises(DatasetError, match=r"day 2/scene_00001.png: scene_00001.bmp has the same"):
        index_dataset(places, tmp_path / "index.parquet")


def test_a_subset_chooses_among_images_with_masks(places: Places, tmp_path: Path) -> None:
    subset, target = tmp_path / "subset.txt", tmp_path / "index.parquet"
    subset.write_text("scene_00001\nscene_00002\n")
    index_dataset(places, target, Data(subset=str(subset)))
    assert ids(target, "train") == ["scene_00001", "scene_00002"]
    assert len(Index(target, UNLABELLED)) == 5


def test_images_without_masks_never_validate(places: Places, tmp_path: Path) -> None:
    target = tmp_path / "index.parquet"
    index_dataset({s: places[s] for s in ("train", UNLABELLED)}, target, Data(val_fraction=0.3))
    assert [len(Index(target, s)) for s in ("train", "val", UNLABELLED)] == [7, 3, 5]


def test_row_groups_and_processes_change_no_image(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut, read = (tmp_path / f"{name}.parquet" for name in ("whole", "cut", "read"))
    copied(places, "train", "aaa.png")  # the first row group then has no image in use
    index_dataset(places, whole)
    monkeypatch.setattr(build, "_MIN_IMAGES_FOR_POOL", 1)
    index_dataset(places, read, num_workers=2)
    assert read.read_bytes() == whole.read_bytes()
    monkeypatch.setattr(build, "IMAGES_PER_GROUP", 1)
    index_dataset(places, cut)
    first, second = Index(whole, UNLABELLED), Index(cut, UNLABELLED)
    assert [first[i] for i in range(5)] == [second[i] for i in range(5)]
    assert first.digests().tolist() == second.digests().tolist()


def test_the_summary_counts_them(places: Places, tmp_path: Path) -> None:
    index_dataset(places, tmp_path / "with.parquet")
    index_dataset(without(places), tmp_path / "alone.parquet")
    with_them, alone = (summarise(tmp_path / f"{name}.parquet") for name in ("with", "alone"))
    header, images, segments, *_ = with_them.text().splitlines()[1:]
    assert header.split() == ["train", "val", "unlabelled"]
    assert images.split() == ["images", "10", "3", "5"]
    assert segments.split()[-1] == "-"
    assert "unlabelled" not in alone.text()
    assert len(with_them.used) == len(alone.used)
    plot_data(with_them).write(tmp_path)
    assert (tmp_path / "data.png").stat().st_size > 0


@pytest.fixture
def splits(places: Places, tmp_path: Path) -> tuple[Index, Index]:
    index_dataset(places, tmp_path / "index.parquet")
    return Index(tmp_path / "index.parquet", "train"), Index(tmp_path / "index.parquet", UNLABELLED)


def training_set(index: Index, unlabelled: Index | None, **changes: Any) -> TrainingSet:
    settings = {"img_size": 64, "objects_per_image": 3, "prompts": Prompts()}
    settings |= {"augment": Augment(), "seed": 0, **changes}
    return TrainingSet(index, unlabelled=unlabelled, **settings)


def test_they_come_after_images_with_masks_and_change_none_of_these(
    splits: tuple[Index, Index],
) -> None:
    both, alone = training_set(*splits), training_set(splits[0], None)
    assert (len(both), len(alone)) == (15, 10)
    assert all(same_samples(both[i], alone[i]) for i in range(10))
    assert [both.record(i).image_id for i in (9, 10)] == ["scene_00009", "day 2/scene_00001"]
    assert [bool(both[i].labelled) for i in range(15)] == [True] * 10 + [False] * 5


@pytest.mark.parametrize("prompts", [Prompts(), MIXED, Prompts(box=0, point=0, mask=1)])
def test_samples_with_and_without_masks_are_stacked(
    prompts: Prompts, splits: tuple[Index, Index]
) -> None:
    samples = training_set(*splits, prompts=prompts)
    batch = collate([samples[i] for i in (0, 9, 10, 14)])
    assert batch.labelled.tolist() == [True, True, False, False]
    assert batch.points.shape == (4, 3, num_points(prompts), 2)
    assert batch.masks[:2].any()
    assert not batch.masks[2:].any()
    assert batch.valid.all()
    if prompts.mask:
        assert batch.mask_prompts.shape == (4, 3, 1, 16, 16)
        assert not batch.has_mask[2:].any()
        assert not batch.mask_prompts[2:].any()


def test_a_sample_without_masks_is_a_function_of_seed_epoch_and_position(
    splits: tuple[Index, Index],
) -> None:
    first, second = (training_set(*splits, prompts=MIXED) for _ in range(2))
    for position in (14, 1, 11):  # reading others before changes nothing
        first[position]
    assert same_samples(first[12], second[12])
    assert not torch.equal(first[12].points, second[len(second) + 12].points)
    assert not torch.equal(
        first[12].points, training_set(*splits, prompts=MIXED, seed=1)[12].points
    )
    assert not torch.equal(first[12].points, first[13].points)


@pytest.mark.parametrize("size", [(64, 64), (30, 64), (64, 21)])
def test_prompts_anywhere_lie_in_the_image(size: tuple[int, int]) -> None:
    height, width = size
    rng = np.random.default_rng(0)
    prompts = [prompt_anywhere(size, Prompts(), rng) for _ in range(2000)]
    points = np.array([p.points[0] for p in prompts if p.labels.tolist() == [1, -1]])
    boxes = np.array([p.points for p in prompts if p.labels.tolist() == [2, 3]])
    assert len(points) + len(boxes) == 2000
    assert 0.45 < len(boxes) / 2000 < 0.55
    assert {(x, y) for x, y in points} <= {(x, y) for x in range(width) for y in range(height)}
    assert len(set(points[:, 0])) == width  # any column may be drawn
    assert (boxes >= 0).all()
    assert (boxes <= [width, height]).all()
    sides = (boxes[:, 1] - boxes[:, 0]) / [width, height]
    assert sides.min() == pytest.approx(0.05, abs=0.01)
    assert sides.max() == pytest.approx(0.6, abs=0.01)
    assert np.abs(sides.mean(0) - 0.325).max() < 0.02


@pytest.mark.parametrize(
    ("prompts", "share"),
    [
        (Prompts(box=1, point=0), 1.0),
        (Prompts(box=0, point=2), 0.0),
        (Prompts(box=3, point=0.5, points=0.5), 0.75),
        (Prompts(box=0, point=0, mask=1), 0.5),
    ],
)
def test_boxes_anywhere_have_their_share_among_boxes_and_points(
    prompts: Prompts, share: float
) -> None:
    rng = np.random.default_rng(0)
    drawn = [prompt_anywhere((64, 64), prompts, rng).labels[0] == 2 for _ in range(1000)]
    assert np.mean(drawn) == pytest.approx(share, abs=0.05)


def test_they_are_mirrored_scaled_and_recoloured_like_others(splits: tuple[Index, Index]) -> None:
    views: list[str] = []

    def read(record: object, view: str) -> dict[str, torch.Tensor]:
        views.append(view)
        return {}

    plain = training_set(*splits)
    mirrored = training_set(*splits, augment=Augment(flip=True), read_features=read)
    for position in range(10, 15):
        before, after = plain[position].image, mirrored[position].image
        assert torch.equal(before if views[-1] == "identity" else before.flip(-1), after)
    assert set(views) == {"identity", "hflip"}
    changing = training_set(*splits, augment=Augment(scale=0.6, hue=0.3, brightness=0.3))
    samples = [changing[i] for i in range(10, 15)]
    assert not any(torch.equal(s.image, plain[i].image) for i, s in enumerate(samples, start=10))
    smaller = [s for s in samples if not s.valid.all()]
    assert smaller
    for sample in samples:
        inside = sample.labels >= 0
        height, width = int(sample.valid[:, 0].sum()), int(sample.valid[0].sum())
        assert (sample.points[inside] <= torch.tensor([width, height])).all()


def test_joined_parts_keep_their_order(splits: tuple[Index, Index]) -> None:
    labelled, unlabelled = splits
    joined = ConcatIndex([unlabelled, labelled])
    assert [joined[i] for i in (0, 4, 5, 14)] == [
        unlabelled[0],
        unlabelled[4],
        labelled[0],
        labelled[9],
    ]


def test_times_of_files_do_not_change_the_index(places: Places, tmp_path: Path) -> None:
    index_dataset(places, tmp_path / "one.parquet")
    os.utime(places[UNLABELLED][0] / "scene_00002.png")
    index_dataset(places, tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
