"""Options of the index, and that only what changed is read again."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mobile_sam.config.sections import Data
from mobile_sam.data.index import build
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.digest_lookup import to_hex
from mobile_sam.data.index.summary import summarise
from mobile_sam.data.index.table import DatasetError, Index
from mobile_sam.system.machine_errors import machine_fault
from tests.helpers import formats
from tests.helpers.ended import end_this_process
from tests.helpers.formats import ids

Places = dict[str, tuple[Path, Path]]


@pytest.fixture
def data(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "data"))


@pytest.fixture
def places(data: Path) -> Places:
    return {split: (data / split / "image", data / split / "mask") for split in ("train", "val")}


def areas(path: Path, split: str = "train") -> list[list[int]]:
    index = Index(path, split)
    return [[segment.area for segment in index[i].segments] for i in range(len(index))]


def test_small_segments_are_left_out_and_counted(places: Places, tmp_path: Path) -> None:
    everything, some = tmp_path / "all.parquet", tmp_path / "some.parquet"
    index_dataset(places, everything)
    small = sum(area < 150 for image in areas(everything) for area in image)
    index_dataset(places, some, Data(min_area=150))
    assert small > 0
    assert min(area for image in areas(some) for area in image) >= 150
    assert f"left out of train: {small} smaller than min_area (scene_" in summarise(some).text()


def test_the_largest_objects_of_an_image_are_kept(places: Places, tmp_path: Path) -> None:
    everything, some = tmp_path / "all.parquet", tmp_path / "some.parquet"
    index_dataset(places, everything)
    index_dataset(places, some, Data(max_objects_per_image=2))
    assert any(len(image) > 2 for image in areas(everything))
    expected = [sorted(image)[-2:] for image in areas(everything)]
    assert [sorted(image) for image in areas(some)] == expected


def test_classes_are_chosen_and_ignored(data: Path, tmp_path: Path) -> None:
    places = {s: (data / s / "image", formats.as_coco(data / s)) for s in ("train", "val")}
    odd, rest = tmp_path / "odd.parquet", tmp_path / "rest.parquet"
    all_of_them = index_dataset(places, tmp_path / "all.parquet")
    count = index_dataset(places, odd, Data(classes=("odd",)))
    assert count == all_of_them - index_dataset(places, rest, Data(ignore=("odd",))) > 0
    table = pq.read_table(odd).to_pylist()
    assert {row["class"] for row in table if row["left_out"] is None} == {"odd"}
    assert {row["left_out"] for row in table} == {None, "of other classes"}
    with pytest.raises(DatasetError, match=r"data\.classes: no annotation has the class 'cat'; "):
        index_dataset(places, tmp_path / "cat.parquet", Data(classes=("cat", "odd")))


def test_values_of_label_maps_are_classes_of_their_own(data: Path, tmp_path: Path) -> None:
    places = {s: (data / s / "image", formats.as_label_maps(data / s)) for s in ("train", "val")}
    target = tmp_path / "index.parquet"
    index_dataset(places, target, Data(classes=(1,)))
    index = Index(target, "train")
    assert all([s.segment_id for s in index[i].segments] == ["1"] for i in range(len(index)))


def test_a_subset_is_a_list_of_ids(places: Places, tmp_path: Path) -> None:
    subset = tmp_path / "subset.txt"
    subset.write_text("scene_00001\n\nscene_00002 \nscene_00009\n")
    index_dataset(places, tmp_path / "index.parquet", Data(subset=str(subset)))
    found = ids(tmp_path / "index.parquet", "train") + ids(tmp_path / "index.parquet", "val")
    assert set(found) == {"scene_00001", "scene_00002", "scene_00009"}
    subset.write_text("scene_00001\nscene_77\n")
    with pytest.raises(DatasetError, match=r"subset.txt: there is no image 'scene_77'; remove"):
        index_dataset(places, tmp_path / "index.parquet", Data(subset=str(subset)))


def test_a_fraction_validates_where_there_is_no_val_directory(
    places: Places, tmp_path: Path
) -> None:
    only_train = {"train": places["train"]}

    def drawn(seed: int, fraction: float) -> set[str]:
        target = tmp_path / "index.parquet"
        index_dataset(only_train, target, Data(val_fraction=fraction, split_seed=seed))
        train, val = set(ids(target, "train")), set(ids(target, "val"))
        assert not train & val
        assert len(train | val) == 10
        return val

    assert len(drawn(0, 0.3)) == 3
    assert drawn(0, 0.3) == drawn(0, 0.3)
    assert drawn(0, 0.3) < drawn(0, 0.5)
    assert drawn(0, 0.3) != drawn(1, 0.3)
    assert len(drawn(0, 0.01)) == 1
    assert len(drawn(0, 0.99)) == 9


def test_broken_files_may_be_left_out_up_to_a_number(places: Places, tmp_path: Path) -> None:
    broken = [places["train"][0] / f"scene_0000{n}.png" for n in (3, 5)]
    for path in broken:
        path.write_text("hello")
    target = tmp_path / "index.parquet"
    with pytest.raises(DatasetError, match="2 problems"):
        index_dataset(places, target, Data(max_broken=1))
    index_dataset(places, target, Data(max_broken=2))
    assert len(Index(target, "train")) == 8
    text = summarise(target).text()
    assert all(f"refused: {path}: the image cannot be read" in text for path in broken)


def test_a_split_without_a_segment_is_an_error_that_counts(places: Places, tmp_path: Path) -> None:
    message = r"train: no image has a segment to use \(left out: \d+ smaller than min_area\)"
    with pytest.raises(DatasetError, match=message):
        index_dataset(places, tmp_path / "index.parquet", Data(min_area=10**6, max_broken=100))


def test_many_problems_go_to_a_file(places: Places, tmp_path: Path) -> None:
    for path in places["train"][1].rglob("*.png"):
        path.write_text("hello")
    for number in range(40):
        (places["train"][0] / f"other_{number}.png").write_text("hello")
    with pytest.raises(
        DatasetError, match=r"\.\.\. and \d+ more in .*index.problems.txt"
    ) as caught:
        index_dataset(places, tmp_path / "index.parquet")
    count = int(str(caught.value).split()[0])
    assert len((tmp_path / "index.problems.txt").read_text().splitlines()) == count > 50


def rewrite(path: Path) -> None:
    before = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(before + 10**9, before + 10**9))


def remove_first_image(data: Path) -> None:
    shutil.rmtree(data / "train/mask/scene_00000")
    (data / "train/image/scene_00000.png").unlink()


CHANGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "nothing": (lambda data: None, []),
    "an image": (
        lambda data: rewrite(data / "train/image/scene_00004.png"),
        ["scene_00004"],
    ),
    "a mask": (
        lambda data: rewrite(data / "train/mask/scene_00002/obj_0.png"),
        ["scene_00002"],
    ),
    "a mask less": (
        lambda data: (data / "train/mask/scene_00006/obj_0.png").unlink(),
        ["scene_00006"],
    ),
    "an image less": (
        remove_first_image,
        [],
    ),
    "an image more": (
        lambda data: [
            shutil.copy(data / "train/image/scene_00000.png", data / "train/image/new.png"),
            shutil.copytree(data / "train/mask/scene_00000", data / "train/mask/new"),
        ],
        ["new"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_only_what_changed_is_read_again(
    name: str, data: Path, places: Places, tmp_path: Path, reads: list[str]
) -> None:
    kept, target = tmp_path / "kept.parquet", tmp_path / "index.parquet"
    index_dataset(places, target, kept=kept)
    assert target.samefile(kept)  # a second name, where the disk has links
    assert len(reads) == 13
    reads.clear()
    change, expected = CHANGES[name]
    change(data)
    target.unlink()  # as Snakemake does before it runs the job
    index_dataset(places, target, kept=kept)
    assert reads == expected
    index_dataset(places, tmp_path / "anew.parquet")
    assert target.read_bytes() == (tmp_path / "anew.parquet").read_bytes()


def test_one_changed_annotation_of_a_coco_file_reads_one_image(
    data: Path, tmp_path: Path, reads: list[str]
) -> None:
    places = {s: (data / s / "image", formats.as_coco(data / s)) for s in ("train", "val")}
    kept, target = tmp_path / "kept.parquet", tmp_path / "index.parquet"
    index_dataset(places, target, kept=kept)
    reads.clear()
    content = json.loads(places["train"][1].read_text())
    content["annotations"].append(content["annotations"].pop(0) | {"category_id": 7})
    places["train"][1].write_text(json.dumps(content))
    index_dataset(places, target, kept=kept)
    assert reads == ["scene_00000"]


def test_other_options_read_all_images_again(
    places: Places, tmp_path: Path, reads: list[str]
) -> None:
    kept = tmp_path / "kept.parquet"
    index_dataset(places, tmp_path / "index.parquet", kept=kept)
    reads.clear()
    index_dataset(places, tmp_path / "index.parquet", Data(min_area=5), kept=kept)
    assert len(reads) == 13


def test_a_broken_image_costs_only_itself(places: Places, tmp_path: Path, reads: list[str]) -> None:
    kept, target = tmp_path / "kept.parquet", tmp_path / "index.parquet"
    broken = places["train"][0] / "scene_00003.png"
    good = broken.read_bytes()
    broken.write_text("hello")
    for _ in range(2):  # and it is named each time
        with pytest.raises(DatasetError, match=r"scene_00003\.png: the image cannot be read"):
            index_dataset(places, target, kept=kept)
    assert reads[13:] == ["scene_00003"]
    reads.clear()
    broken.write_bytes(good)
    index_dataset(places, target, kept=kept)
    assert reads == ["scene_00003"]


def test_a_damaged_kept_index_is_not_trusted(
    places: Places, tmp_path: Path, reads: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    kept, target = tmp_path / "kept.parquet", tmp_path / "index.parquet"
    index_dataset(places, target, kept=kept)
    other = tmp_path / "other.parquet"
    index_dataset({"train": places["val"], "val": places["train"]}, other)
    shutil.copy(other, kept)
    reads.clear()
    with caplog.at_level("INFO", logger="mobile_sam"):
        index_dataset(places, target, kept=kept)
    assert len(reads) == 13
    assert f"no file times are recorded for {kept}" in caplog.text


@pytest.mark.parametrize(
    ("module", "point"),
    [("cache", "the index is kept"), ("build", "the index is in place")],
)
def test_killed_when_all_images_are_read_none_is_read_again(
    module: str,
    point: str,
    places: Places,
    tmp_path: Path,
    reads: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where a last index is there, of which a mask has changed since."""
    kept, target = tmp_path / "kept.parquet", tmp_path / "index.parquet"

    def stop(name: str) -> None:
        assert name == point
        raise KeyboardInterrupt

    for change in (None, {"min_area": 5}):
        with monkeypatch.context() as stopped:
            stopped.setattr(f"mobile_sam.data.index.{module}.stopping_point", stop)
            with pytest.raises(KeyboardInterrupt):
                index_dataset(places, target, Data(**change or {}), kept=kept)
        target.unlink(missing_ok=True)
        reads.clear()
        index_dataset(places, target, Data(**change or {}), kept=kept)
        assert reads == []
        assert len(list(tmp_path.glob("kept.*.npz"))) == 1


def test_many_images_are_read_by_processes_and_give_the_same_index(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_dataset(places, tmp_path / "one.parquet")
    monkeypatch.setattr(build, "_MIN_IMAGES_FOR_POOL", 1)
    index_dataset(places, tmp_path / "two.parquet", num_workers=2)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_a_worker_that_is_killed_is_a_sentence(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_MIN_IMAGES_FOR_POOL", 1)
    monkeypatch.setattr(build, "read_rows", end_this_process)
    with pytest.raises(BrokenProcessPool) as caught:
        index_dataset(places, tmp_path / "out" / "index.parquet", num_workers=2)
    sentence = machine_fault(caught.value, "index") or ""
    assert "a process that reads images was killed, as the system does when memory" in sentence
    assert (
        "give it fewer --workers (of Snakemake: --max-threads), and run the same command again"
        in sentence
    )
    assert list((tmp_path / "out").iterdir()) == []


def test_images_are_found_in_any_row_group(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    options = Data(min_area=250)  # some images, and some row groups, are without a segment
    index_dataset(places, whole, options)
    monkeypatch.setattr(build, "IMAGES_PER_GROUP", 1)
    index_dataset(places, cut, options)
    for split in ("train", "val"):
        first, second = Index(whole, split), Index(cut, split)
        order = [*range(len(first)), *reversed(range(len(first)))]
        assert [first[i] for i in order] == [second[i] for i in order]
        digests = list(map(to_hex, first.digests()))
        assert digests == list(map(to_hex, second.digests()))
        assert digests == [first[i].digest for i in range(len(first))]
    assert len(Index(whole, "train")) < 10
