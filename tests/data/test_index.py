"""The index, and every way in which images and masks can be wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import DatasetError, Index

Damage = Callable[[Path], object]


def build(data: Path, target: Path, num_workers: int = 0) -> int:
    sources = {s: (data / s / "image", data / s / "mask") for s in ("train", "val")}
    return index_dataset(sources, target, num_workers=num_workers)


@pytest.fixture
def data(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "data"))


def image(data: Path, number: int) -> Path:
    return data / "train" / "image" / f"scene_{number:05d}.png"


def masks(data: Path, number: int) -> Path:
    return data / "train" / "mask" / f"scene_{number:05d}"


def test_each_segment_is_a_row(data: Path, tmp_path: Path) -> None:
    count = build(data, tmp_path / "index.parquet")
    assert count == len(list(data.glob("*/mask/*/*.png")))
    index = Index(tmp_path / "index.parquet", "train")
    assert len(index) == 10
    record = index[3]
    assert record.image_id == "scene_00003"
    assert record.size == (64, 64)
    for segment in record.segments:
        stored = np.asarray(Image.open(masks(data, 3) / f"{segment.segment_id}.png")) > 0
        assert np.array_equal(record.mask(segment), stored)
        x0, y0, x1, y1 = segment.box
        assert stored[y0:y1, x0:x1].sum() == stored.sum() == segment.area


def test_workers_write_the_same_index(data: Path, tmp_path: Path) -> None:
    build(data, tmp_path / "one.parquet")
    build(data, tmp_path / "two.parquet", num_workers=2)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_equal_digests_are_told_apart_by_path(data: Path, tmp_path: Path) -> None:
    shutil.copy(image(data, 0), image(data, 1))
    build(data, tmp_path / "index.parquet")
    assert len(Index(tmp_path / "index.parquet", "train")) == 10


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save_mask(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(path)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "truncated image": (
        lambda d: truncate(image(d, 0)),
        "scene_00000.png: the image cannot be read",
    ),
    "no image at all": (
        lambda d: image(d, 1).write_text("hello"),
        "scene_00001.png: the image cannot be read",
    ),
    "truncated mask": (
        lambda d: truncate(masks(d, 2) / "obj_0.png"),
        "scene_00002/obj_0.png: the mask cannot be read",
    ),
    "mask of another size": (
        lambda d: save_mask(masks(d, 3) / "obj_0.png", np.ones((32, 64), dtype=bool)),
        "scene_00003/obj_0.png: the mask is 64x32 pixels, its image 64x64",
    ),
    "empty mask": (
        lambda d: save_mask(masks(d, 4) / "obj_0.png", np.zeros((64, 64), dtype=bool)),
        "scene_00004/obj_0.png: the mask is empty",
    ),
    "image without masks": (
        lambda d: shutil.rmtree(masks(d, 5)),
        "scene_00005.png: the image has no masks; put them into",
    ),
    "masks without image": (
        lambda d: image(d, 6).unlink(),
        "scene_00006: the masks have no image",
    ),
    "two images of one name": (
        lambda d: shutil.copy(image(d, 7), image(d, 7).with_suffix(".jpg")),
        "has the same name; rename one",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_bad_input_is_named(name: str, data: Path, tmp_path: Path) -> None:
    damage, message = DAMAGES[name]
    damage(data)
    with pytest.raises(DatasetError, match=message):
        build(data, tmp_path / "index.parquet")


def test_all_broken_files_are_listed_at_once(data: Path, tmp_path: Path) -> None:
    for damage, _ in DAMAGES.values():
        damage(data)
    with pytest.raises(DatasetError) as caught:
        build(data, tmp_path / "index.parquet")
    assert all(message in str(caught.value) for _, message in DAMAGES.values())
    assert f"{len(DAMAGES)} problems" in str(caught.value)


def test_bad_input_never_loses_a_good_index(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "index.parquet"
    build(data, target)
    before = target.read_bytes()
    truncate(image(data, 0))
    with pytest.raises(DatasetError):
        build(data, target)
    assert target.read_bytes() == before


def test_a_directory_without_images_is_named(data: Path, tmp_path: Path) -> None:
    for directory in ("image", "mask"):
        shutil.rmtree(data / "val" / directory)
        (data / "val" / directory).mkdir()
    with pytest.raises(DatasetError, match="val/image: there is no image"):
        build(data, tmp_path / "index.parquet")


def test_a_missing_index_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="run `python -m mobile_sam index`"):
        Index(tmp_path / "index.parquet", "train")


def test_photographs_are_turned_upright(data: Path, tmp_path: Path) -> None:
    path = image(data, 0)
    pixels = np.asarray(Image.open(path))
    path.unlink()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(np.rot90(pixels).copy()).save(path.with_suffix(".jpg"), exif=exif, quality=95)
    build(data, tmp_path / "index.parquet")  # the masks would not fit otherwise, were it not square
    from mobile_sam.data.images import read_image

    upright = read_image(path.with_suffix(".jpg")).astype(float)
    assert np.abs(upright - pixels).mean() < 12


def test_a_binary_mask_is_one_segment(data: Path, tmp_path: Path) -> None:
    directory = masks(data, 0)
    union = np.any([np.asarray(Image.open(p)) for p in directory.iterdir()], axis=0)
    shutil.rmtree(directory)
    save_mask(directory.with_suffix(".png"), union)
    build(data, tmp_path / "index.parquet")
    (segment,) = Index(tmp_path / "index.parquet", "train")[0].segments
    assert segment.area == union.sum()


LABEL_MAP_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pages": (
        lambda p: Image.new("L", (64, 64), 1).save(
            p, "TIFF", save_all=True, append_images=[Image.new("L", (64, 64), 2)]
        ),
        "the file has several pages",
    ),
    "pickled array": (
        lambda p: np.save(p.with_suffix(".npy"), np.array([{"a": 1}], dtype=object)),
        "the file holds Python objects, as cellpose's _seg.npy does",
    ),
}


@pytest.mark.parametrize("name", LABEL_MAP_DAMAGES)
def test_bad_label_maps_are_named(name: str, data: Path, tmp_path: Path) -> None:
    damage, message = LABEL_MAP_DAMAGES[name]
    shutil.rmtree(masks(data, 0))
    damage(masks(data, 0).with_suffix(".tif" if name == "pages" else ".png"))
    with pytest.raises(DatasetError, match=message):
        build(data, tmp_path / "index.parquet")


def test_masks_given_twice_are_named(data: Path, tmp_path: Path) -> None:
    save_mask(masks(data, 0).with_suffix(".png"), np.ones((64, 64), dtype=bool))
    with pytest.raises(DatasetError, match="has masks of the same image; keep one"):
        build(data, tmp_path / "index.parquet")
