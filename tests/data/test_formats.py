"""Every format gives the segments that directories of masks give, and names what is wrong."""

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mobile_sam.config.sections import Data
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import DatasetError, Index
from tests.helpers import formats
from tests.helpers.formats import SQUARE, coco_of_one

Rewrite = Callable[[Path], Path]


@pytest.fixture
def data(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "data"))


def sources(data: Path) -> dict[str, tuple[Path, Path]]:
    return {split: (data / split / "image", data / split / "mask") for split in ("train", "val")}


def rewritten(data: Path, rewrite: Rewrite) -> dict[str, tuple[Path, Path]]:
    """Both splits in another format."""
    places = {}
    for split in ("train", "val"):
        masks = rewrite(data / split)
        images = masks if rewrite is formats.as_bbbc038 else data / split / "image"
        places[split] = images, masks
    return places


def segments(path: Path, split: str) -> list[tuple[str, list[tuple[Any, ...]]]]:
    index = Index(path, split)
    return [
        (image.image_id, [(s.rle, s.box, s.area) for s in image.segments])
        for image in (index[position] for position in range(len(index)))
    ]


FORMATS: dict[str, tuple[str, Rewrite]] = {
    "label maps, 8 bit": ("label_map", formats.as_label_maps),
    "label maps, 16 bit": ("label_map", lambda s: formats.as_label_maps(s, ".png", np.uint16)),
    "label maps, TIFF": ("label_map", lambda s: formats.as_label_maps(s, ".tif", np.uint16)),
    "label maps, NumPy": ("label_map", lambda s: formats.as_label_maps(s, ".npy", np.int64)),
    "COCO, compressed": ("coco", formats.as_coco),
    "COCO, runs": ("coco", lambda s: formats.as_coco(s, compressed=False)),
    "SA-1B": ("sa1b", formats.as_sa1b),
    "BBBC038": ("bbbc038", formats.as_bbbc038),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_segments(name: str, data: Path, tmp_path: Path) -> None:
    expected, rewrite = FORMATS[name]
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    index_dataset(sources(data), first)
    index_dataset(rewritten(data, rewrite), second)
    for split in ("train", "val"):
        assert segments(first, split) == segments(second, split)
    assert set(pq.read_table(second)["format"].to_pylist()) == {expected}


def test_yolo_polygons_are_nearly_the_masks_they_were_drawn_around(
    data: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    index_dataset(sources(data), first)
    index_dataset(rewritten(data, formats.as_yolo), second)
    masks, outlines = Index(first, "train"), Index(second, "train")
    compared = 0
    for position in range(len(masks)):
        truth = [masks[position].mask(s) for s in masks[position].segments]
        for segment in outlines[position].segments:
            drawn = outlines[position].mask(segment)
            overlap = max((drawn & mask).sum() / (drawn | mask).sum() for mask in truth)
            compared += overlap > 0.6  # rings are filled, and parts are one
    assert compared > 15
    table = pq.read_table(second)
    assert set(table["class"].to_pylist()) == {"thing", "other"}
    assert set(table["format"].to_pylist()) == {"yolo"}


def test_coco_polygons_are_the_area_within(tmp_path: Path) -> None:
    places = coco_of_one(
        tmp_path, [[10, 20, 30, 20, 30, 40, 10, 40], [40, 0, 50, 0, 50, 10, 40, 10]]
    )
    index_dataset(places, tmp_path / "index.parquet", Data(duplicates="allow"))
    image = Index(tmp_path / "index.parquet", "train")[0]
    mask = image.mask(image.segments[0])
    assert mask[20:40, 10:30].all()
    assert mask[0:10, 40:50].all()
    assert mask.sum() == 20 * 20 + 10 * 10


SIZE = [64, 64]
COCO_DAMAGES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "polygon of two points": ([[1, 1, 5, 5]], {}, "annotation 5: a polygon has 4 coordinates"),
    "no segmentation": ([], {}, "annotation 5: there is no segmentation"),
    "text": ("hello", {}, "annotation 5: segmentation is neither polygons nor a run-length code"),
    "code of another size": (
        {"size": [32, 64], "counts": "0"},
        {},
        "annotation 5: the mask is 64x32 pixels, its image 64x64",
    ),
    "code that is cut off": (
        {"size": SIZE, "counts": "Z1b"},
        {},
        r"annotation 5: the (run-length )?code .*export it again",
    ),
    "runs beyond the image": (
        {"size": SIZE, "counts": [10, 5000]},
        {},
        "annotation 5: the runs cover 5010 pixels of 4096",
    ),
    "image of another size": (
        SQUARE,
        {"size": (32, 64)},
        "the annotations are of 64x32 pixels, its image 64x64; export",
    ),
    "annotation of no image": (
        SQUARE,
        {"annotations": [{"id": 8, "image_id": 2, "segmentation": SQUARE}]},
        "annotation 8: image_id 2 matches no image",
    ),
    "no such category": (
        SQUARE,
        {
            "annotations": [{"id": 8, "image_id": 1, "category_id": 4, "segmentation": SQUARE}],
            "categories": [{"id": 1, "name": "cell"}],
        },
        "annotation 8: category_id 4 matches no category",
    ),
    "no such file": (
        SQUARE,
        {"images": [{"id": 1, "file_name": "b.png", "height": 64, "width": 64}]},
        "there is no image .*b.png; add it there",
    ),
    "leaves the directory": (
        SQUARE,
        {"images": [{"id": 1, "file_name": "../a.png", "height": 64, "width": 64}]},
        "'../a.png' points outside of",
    ),
    "not COCO": (SQUARE, {"images": 5}, "not annotations in the format of COCO or SA-1B"),
    "without images": (SQUARE, {"images": [], "annotations": []}, "the file lists no image"),
}


@pytest.mark.parametrize("name", COCO_DAMAGES)
def test_bad_coco_is_named(name: str, tmp_path: Path) -> None:
    segmentation, changes, message = COCO_DAMAGES[name]
    places = coco_of_one(tmp_path, segmentation, **changes)
    with pytest.raises(DatasetError, match=message):
        index_dataset(places, tmp_path / "index.parquet")


def test_crowds_are_kept_apart(data: Path, tmp_path: Path) -> None:
    places = rewritten(data, formats.as_coco)
    file = places["train"][1]
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    count = index_dataset(places, tmp_path / "index.parquet")
    table = pq.read_table(tmp_path / "index.parquet")
    assert table["left_out"].to_pylist().count("crowds") == 1
    assert count == len(table) - 1
    used = [s.segment_id for s in Index(tmp_path / "index.parquet", "train")[0].segments]
    assert str(content["annotations"][0]["id"]) not in used


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.1 0.1 0.5 0.5", "line 1: this is a box, not a polygon"),
        ("0 0.1 0.1 0.5 0.1 0.5 1.5", "line 1: give a class number and coordinates from 0 to 1"),
        ("cat 0.1 0.1 0.5 0.1 0.5 0.5", "line 1: give a class number"),
        ("0 0.1 0.1 0.5 0.1 x 0.5", "line 1: could not convert string to float"),
        ("0 0.1 0.1 0.5 0.1 0.5", "line 1: a polygon has 5 coordinates"),
    ],
)
def test_bad_yolo_is_named(line: str, message: str, data: Path, tmp_path: Path) -> None:
    places = rewritten(data, formats.as_yolo)
    (places["train"][1] / "scene_00000.txt").write_text(line + "\n")
    with pytest.raises(DatasetError, match=f"scene_00000.txt: {message}"):
        index_dataset(places, tmp_path / "index.parquet")


def test_a_coco_file_within_a_directory_is_explained(data: Path, tmp_path: Path) -> None:
    file = formats.as_coco(data / "train")
    shutil.rmtree(data / "train" / "mask")
    (data / "train" / "mask").mkdir()
    shutil.move(file, data / "train" / "mask" / "instances.json")
    with pytest.raises(DatasetError, match="if the file is a COCO file for all images, give"):
        index_dataset(sources(data), tmp_path / "index.parquet")


def test_a_bbbc038_folder_of_two_images_is_named(data: Path, tmp_path: Path) -> None:
    places = rewritten(data, formats.as_bbbc038)
    folder = places["train"][0] / "scene_00001"
    shutil.copy(folder / "images" / "scene_00001.png", folder / "images" / "again.png")
    shutil.rmtree(places["train"][0] / "scene_00002" / "masks")
    with pytest.raises(DatasetError) as caught:
        index_dataset(places, tmp_path / "index.parquet")
    assert "scene_00001/images: there are 2 images; keep one" in str(caught.value)
    assert "scene_00002.png: the image has no masks" in str(caught.value)


def test_names_with_spaces_and_accents_are_found_however_they_are_stored(
    data: Path, tmp_path: Path
) -> None:
    name = "Zelle größe 1 é"
    image = data / "train" / "image" / "scene_00000.png"
    image.rename(image.with_name(unicodedata.normalize("NFD", name) + ".png"))
    masks = data / "train" / "mask" / "scene_00000"
    masks.rename(masks.with_name(unicodedata.normalize("NFC", name)))
    index_dataset(sources(data), tmp_path / "index.parquet")
    index = Index(tmp_path / "index.parquet", "train")
    found = next(index[i] for i in range(10) if not index[i].image_id.startswith("scene"))
    assert found.image_id == unicodedata.normalize("NFC", name)
    assert found.path.is_file()


def test_an_ignored_value_of_a_label_map_is_no_segment(data: Path, tmp_path: Path) -> None:

    places = rewritten(data, formats.as_label_maps)
    before = index_dataset(places, tmp_path / "before.parquet")
    for path in places["train"][1].iterdir():
        labels = np.asarray(Image.open(path)).copy()
        labels[:2, :2] = 255
        Image.fromarray(labels).save(path)
    with_border = index_dataset(places, tmp_path / "with.parquet")
    without = index_dataset(places, tmp_path / "without.parquet", Data(ignore=(255,)))
    assert with_border == before + 10
    assert without == before
