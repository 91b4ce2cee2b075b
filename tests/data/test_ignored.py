"""Regions of which nothing is known: in the index, in samples, and for prompts."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mobile_sam.config.sections import Augment, Data, Prompts
from mobile_sam.data.index import build as indexing
from mobile_sam.data.index import table as index_module
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.summary import summarise
from mobile_sam.data.index.table import CROWDS, IGNORED, Index, IndexedImage, Segment
from mobile_sam.data.masks import encode, union
from mobile_sam.data.sampling.dataset import TrainingSet, ValidationSet
from mobile_sam.data.sampling.prompts import Target, several_points, surroundings
from tests.helpers import formats

Places = dict[str, tuple[Path, ...]]
IGNORE = Data(ignore=(255,))


def unknown_square() -> np.ndarray:
    """What every image of `places` does not know, (64, 64)."""
    square = np.zeros((64, 64), dtype=bool)
    square[40:60, 8:32] = True
    return square


@pytest.fixture
def places(scenes: Path, tmp_path: Path) -> Places:
    """Label maps of the scenes whose square of 255 hides what is below; every third has none."""
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    found: Places = {
        s: (data / s / "image", formats.as_label_maps(data / s)) for s in ("train", "val")
    }
    for _, masks in found.values():
        for path in sorted(masks.iterdir())[: len(list(masks.iterdir())) * 2 // 3]:
            labels = np.array(Image.open(path))
            labels[unknown_square()] = 255
            Image.fromarray(labels).save(path)
    return found


def indexed(places: Places, target: Path, options: Data = IGNORE) -> Index:
    index_dataset(places, target, options)
    return Index(target, "train")


def training_set(index: Index, **changes: Any) -> TrainingSet:
    settings = {"img_size": 64, "objects_per_image": 3, "prompts": Prompts()}
    settings |= {"augment": Augment(), "seed": 0, **changes}
    return TrainingSet(index, **settings)


def test_ignored_segments_belong_to_their_image(places: Places, tmp_path: Path) -> None:
    index = indexed(places, tmp_path / "index.parquet")
    assert [len(index[i].ignored) for i in range(10)] == [1] * 6 + [0] * 4
    record = index[3]
    assert record.ignored[0].segment_id == "255"
    assert record.ignored[0].box == (8, 40, 32, 60)
    assert np.array_equal(record.unknown(), unknown_square())
    assert not index[7].unknown().any()
    assert (
        "left out of train: 6 ignored (scene_00000, "
        in summarise(tmp_path / "index.parquet").text()
    )


def test_row_groups_change_no_ignored_segment(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Data(ignore=(255,), min_area=400)  # some images have nothing but what is ignored
    whole = indexed(places, tmp_path / "whole.parquet", options)
    assert 2 < len(whole) < 10
    assert all(
        segment.segment_id == "255" for i in range(len(whole)) for segment in whole[i].ignored
    )
    assert all(len(whole[i].ignored) <= 1 for i in range(len(whole)))
    rows = pq.read_table(tmp_path / "whole.parquet").to_pylist()
    of_train = {
        row["image_id"] for row in rows if row["split"] == "train" and row["left_out"] == IGNORED
    }
    there = {whole[i].image_id: len(whole[i].ignored) for i in range(len(whole))}
    assert of_train - set(there), "an image without a segment in use is part of this test"
    assert {name for name, count in there.items() if count} == of_train & set(there)
    monkeypatch.setattr(indexing, "IMAGES_PER_GROUP", 2)
    cut = indexed(places, tmp_path / "cut.parquet", options)
    assert [whole[i] for i in range(len(whole))] == [cut[i] for i in range(len(cut))]
    assert whole.digests().tolist() == cut.digests().tolist()


def test_only_crowds_and_ignored_classes_are_unknown(scenes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    places: Places = {s: (data / s / "image", formats.as_coco(data / s)) for s in ("train", "val")}
    content = json.loads(places["train"][1].read_text())
    first = [a for a in content["annotations"] if a["image_id"] == 100]
    assert len(first) >= 3
    first[0]["iscrowd"] = 1
    places["train"][1].write_text(json.dumps(content))

    def left_out(options: Data) -> dict[str, str | None]:
        index = indexed(places, tmp_path / "index.parquet", options)
        table = pq.read_table(
            tmp_path / "index.parquet", filters=[("split", "=", "train")]
        ).to_pylist()
        reasons = {r["segment_id"]: r["left_out"] for r in table if r["image_id"] == "scene_00000"}
        unknown = {s.segment_id for s in index[0].ignored}
        assert unknown == {k for k, reason in reasons.items() if reason in {CROWDS, IGNORED}}
        return reasons

    assert left_out(Data())["100000"] == "crowds"
    ignoring = left_out(Data(ignore=("odd",)))
    assert (ignoring["100000"], ignoring["100001"], ignoring["100002"]) == (
        "crowds",
        "ignored",
        None,
    )
    choosing = left_out(Data(classes=("odd",)))
    assert (choosing["100001"], choosing["100002"]) == (None, "of other classes")
    largest = left_out(Data(max_objects_per_image=1))
    assert "beyond max_objects_per_image" in largest.values()
    small = left_out(Data(min_area=300))
    assert "smaller than min_area" in small.values()


def test_unknown_pixels_are_not_valid(places: Places, tmp_path: Path) -> None:
    index = indexed(places, tmp_path / "index.parquet")
    samples = training_set(index)
    square = torch.from_numpy(unknown_square())
    assert torch.equal(samples[2].valid, ~square)
    assert samples[8].valid.all()
    validation = ValidationSet(Index(tmp_path / "index.parquet", "val"), 64, 2, 3, seed=0)
    assert torch.equal(validation[0].valid, ~square)
    assert validation[2].valid.all()


def test_all_but_valid_is_as_without_ignored_regions(places: Places, tmp_path: Path) -> None:
    """A value that is left out by `classes` is background."""
    ignoring = training_set(indexed(places, tmp_path / "one.parquet"))
    others = tuple(str(n) for n in range(1, 20))
    choosing = training_set(indexed(places, tmp_path / "two.parquet", Data(classes=others)))
    for position in range(10):
        one, two = ignoring[position], choosing[position]
        assert two.valid.all()
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.masks, two.masks)
        assert torch.equal(one.points, two.points)


def test_where_a_segment_and_an_ignored_region_overlap_the_segment_counts() -> None:
    crowd, segment = np.zeros((2, 8, 8), dtype=bool)
    crowd[2:6, 2:6], segment[4:8, 4:8] = True, True

    def made(mask: np.ndarray) -> Segment:
        return Segment("", encode(mask), (0, 0, 8, 8), int(mask.sum()))

    record = IndexedImage("", Path(), "", (8, 8), (made(segment),), (made(crowd),))
    assert np.array_equal(record.unknown(), crowd & ~segment)
    assert record.unknown().sum() == 12


@pytest.mark.parametrize("img_size", [64, 128])
@pytest.mark.parametrize("augment", [Augment(flip=True), Augment(flip=True, scale=0.6)])
def test_unknown_pixels_move_with_the_image(
    augment: Augment, img_size: int, places: Places, tmp_path: Path
) -> None:
    """The square is painted white into the images, so that it can be found in the samples."""
    for path in sorted(places["train"][0].iterdir())[:6]:
        pixels = np.array(Image.open(path)) // 2
        pixels[unknown_square()] = 255
        Image.fromarray(pixels).save(path)
    plain = training_set(indexed(places, tmp_path / "index.parquet"), img_size=img_size)
    moving = training_set(plain.images, img_size=img_size, augment=augment)  # type: ignore[arg-type]
    changed = 0
    for position in range(6):
        sample = moving[position]
        white = sample.image.min(dim=0).values > 235
        inside = torch.nn.functional.max_pool2d((~white)[None, None].float(), 5, 1, 2)[0, 0] == 0
        around = torch.nn.functional.max_pool2d(white[None, None].float(), 5, 1, 2)[0, 0] > 0
        any_mask = sample.masks.any(0)
        assert not (sample.valid & inside & ~any_mask).any()
        unknown = ~sample.valid & (sample.image != 0).any(0)
        assert not (unknown & ~around).any()
        assert inside.any()
        changed += not torch.equal(sample.valid, plain[position].valid)
    assert changed > 1


def test_a_prompted_segment_is_valid_everywhere(places: Places, tmp_path: Path) -> None:
    """At half the size, pixels are half of a segment and half of what is ignored."""
    samples = training_set(
        indexed(places, tmp_path / "index.parquet"), img_size=64, augment=Augment(scale=0.9)
    )
    shared = 0
    for epoch in range(4):
        for position in range(6):
            sample = samples[epoch * len(samples) + position]
            assert not (sample.masks & ~sample.valid).any()
            shared += int((~sample.valid).sum())
    assert shared > 0


def test_no_point_falls_on_an_unknown_pixel(places: Places, tmp_path: Path) -> None:
    settings = Prompts(box=0, point=1, interior_point=1, points=4, max_negative_points=8)
    index = indexed(places, tmp_path / "index.parquet")
    samples = training_set(index, prompts=settings, objects_per_image=8)
    blind = training_set(index, prompts=settings, objects_per_image=8)
    negative = 0
    for position in range(6):
        sample = samples[position]
        placed = sample.labels >= 0
        x, y = sample.points[placed].long().unbind(-1)
        assert sample.valid[y, x].all()
        negative += int((blind[position].labels == 0).sum())
    assert negative > 50


def test_background_that_is_unknown_gives_no_negative_point() -> None:
    mask, valid = np.zeros((16, 16), dtype=bool), np.ones((16, 16), dtype=bool)
    mask[4:8, 4:8] = True
    valid[2:10, 2:10] = mask[2:10, 2:10]
    target = Target(mask, (16, 16), valid)
    near = surroundings(target)
    assert near.any()  # nothing is known nearby, so it is taken from farther away
    assert not (near & (mask | ~valid)).any()
    nothing = Target(mask, (16, 16), mask)
    assert not surroundings(nothing).any()
    settings = Prompts(points=1, max_negative_points=4)
    prompt = several_points(nothing, settings, np.random.default_rng(0))
    assert 0 not in prompt.labels


def test_only_images_with_ignored_regions_pay_for_them(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(codes: list[bytes], size: tuple[int, int]) -> np.ndarray:
        calls.append(len(codes))
        return union(codes, size)

    monkeypatch.setattr(index_module, "union", counted)
    samples = training_set(indexed(places, tmp_path / "index.parquet"))
    samples[8]
    assert calls == []
    samples[2]
    assert len(calls) == 2


def test_a_union_of_codes() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((9, 7)) < 0.2 for _ in range(3)]
    for count in range(4):
        expected = np.any([np.zeros((9, 7), dtype=bool), *masks[:count]], axis=0)
        assert np.array_equal(union([encode(m) for m in masks[:count]], (9, 7)), expected)


def test_rows_of_another_version_are_read_again(
    places: Places, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, target = tmp_path / "kept.parquet", tmp_path / "index.parquet"

    def build() -> None:
        index_dataset(places, target, IGNORE, kept=kept)

    build()
    reads.clear()
    build()
    assert reads == []
    monkeypatch.setattr(indexing, "ROW_VERSION", 0)
    build()
    assert len(reads) == 13
