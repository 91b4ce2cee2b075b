"""Images that train and validate at once are found, and groups stay on one side."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mobile_sam.config.sections import Data, ImageOptions
from mobile_sam.data.images import (
    DEFAULT_OPTIONS,
    check_image,
    hash_verified,
    perceptual_hash,
    read_image,
)
from mobile_sam.data.index import near_duplicates as module
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.groups import assign_groups
from mobile_sam.data.index.near_duplicates import near_duplicate_notes, near_duplicates
from mobile_sam.data.index.splits import Sources
from mobile_sam.data.index.summary import summarise
from mobile_sam.data.index.table import DatasetError, Index
from mobile_sam.system.errors import UserError


def drawn(size: tuple[int, int], seed: int) -> np.ndarray:
    """Smooth coloured blobs (H, W, 3)."""
    rng = np.random.default_rng(seed)
    noise = cv2.resize(rng.normal(size=(9, 9, 3)), size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(noise * 60 + 128, 0, 255).astype(np.uint8)


@pytest.fixture
def sources(scenes: Path, tmp_path: Path) -> Sources:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    return {s: (data / s / "image", data / s / "mask") for s in ("train", "val")}


def copy_to_val(sources: Sources, name: str, target: str) -> Path:
    """Make an image of training one of validation, with its masks."""
    shutil.copytree(sources["train"][1] / name, sources["val"][1] / target)
    path = sources["val"][0] / f"{target}.png"
    shutil.copy(sources["train"][0] / f"{name}.png", path)
    return path


def test_images_with_equal_bytes_are_an_error_that_lists_them(
    sources: Sources, tmp_path: Path
) -> None:
    paths = [copy_to_val(sources, f"scene_0000{n}", f"copy_{n}") for n in (1, 4)]
    with pytest.raises(DatasetError) as raised:
        index_dataset(sources, tmp_path / "index.parquet")
    for number, path in zip((1, 4), paths, strict=True):
        trained = sources["train"][0] / f"scene_0000{number}.png"
        assert f"{path}: the same image as the training image {trained}; remove one" in str(
            raised.value
        )
    assert "set data.duplicates to 'allow'" in str(raised.value)
    assert not (tmp_path / "index.parquet").exists()
    allowed = Data(duplicates="allow")
    count = index_dataset(sources, tmp_path / "index.parquet", allowed)
    assert count > 0
    assert len(Index(tmp_path / "index.parquet", "val")) == 5


def look_alike(sources: Sources, name: str, target: str) -> Path:
    """Make a smaller, brighter image of training one of validation."""
    path = copy_to_val(sources, name, target)
    image = Image.open(path).convert("RGB")
    ImageEnhance.Brightness(image).enhance(1.1).resize((64, 64)).save(path)
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images whose hashes are computed, in order."""
    names: list[str] = []

    def hash_image(path: Path, options: ImageOptions, digest: str) -> int:
        names.append(path.name)
        return hash_verified(path, options, digest)

    monkeypatch.setattr(module, "hash_verified", hash_image)
    return names


NOTE = "1 of 4 validation images look like a training image (copy and scene_00001); if they show"


@pytest.mark.parametrize("batch", [1, 100])
def test_pictures_that_look_alike_are_counted_and_named(
    sources: Sources,
    tmp_path: Path,
    hashed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    look_alike(sources, "scene_00001", "copy")
    index = tmp_path / "index.parquet"
    index_dataset(sources, index)
    assert "look like" not in summarise(index).text()
    monkeypatch.setattr(module, "_IMAGES_PER_SAVE", batch)
    (note,) = near_duplicate_notes(index, num_workers=2)
    assert note.startswith(NOTE)
    assert note in summarise(index, [note]).text()
    assert len(hashed) == 14
    assert near_duplicate_notes(index) == [note]
    assert len(hashed) == 14  # no image is read again


def test_a_new_image_alone_is_searched_for_look_alikes(
    sources: Sources, tmp_path: Path, hashed: list[str]
) -> None:
    index = tmp_path / "index.parquet"
    index_dataset(sources, index)
    assert near_duplicate_notes(index) == []
    hashed.clear()
    look_alike(sources, "scene_00001", "copy")
    index_dataset(sources, index)
    assert near_duplicate_notes(index)[0].startswith(NOTE)
    assert hashed == ["copy.png"]


def test_a_damaged_file_of_hashes_is_replaced(
    sources: Sources, tmp_path: Path, hashed: list[str]
) -> None:
    look_alike(sources, "scene_00001", "copy")
    index = tmp_path / "index.parquet"
    index_dataset(sources, index)
    before = near_duplicate_notes(index)
    kept = tmp_path / "index.hashes.npz"
    kept.write_bytes(kept.read_bytes()[:100])
    hashed.clear()
    assert near_duplicate_notes(index) == before
    assert len(hashed) == 14


def test_a_copy_that_is_allowed_is_no_look_alike(sources: Sources, tmp_path: Path) -> None:
    copy_to_val(sources, "scene_00001", "same")
    index = tmp_path / "index.parquet"
    index_dataset(sources, index, Data(duplicates="allow"))
    assert near_duplicate_notes(index) == []
    look_alike(sources, "scene_00004", "copy")
    index_dataset(sources, index, Data(duplicates="allow"))
    assert near_duplicate_notes(index)[0].startswith("2 of 5 validation images look like")


def test_images_that_changed_since_are_counted(sources: Sources, tmp_path: Path) -> None:
    path = look_alike(sources, "scene_00001", "copy")
    index = tmp_path / "index.parquet"
    index_dataset(sources, index)
    path.unlink()
    changed = sources["train"][0] / "scene_00002.png"
    changed.write_bytes(path.parent.joinpath("scene_00000.png").read_bytes())
    (note,) = near_duplicate_notes(index)
    assert note.startswith("2 images were not searched for near-duplicates: ")
    assert f"{changed}: the image has changed since it was indexed" in note


def test_an_index_for_validation_alone_has_no_look_alikes(
    sources: Sources, tmp_path: Path, hashed: list[str]
) -> None:
    index_dataset({"val": sources["val"]}, tmp_path / "index.parquet")
    assert near_duplicate_notes(tmp_path / "index.parquet") == []
    assert hashed == []


def look(path: Path) -> int:
    """Return the hash of an image."""
    return hash_verified(path, DEFAULT_OPTIONS, check_image(path).digest)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_hash_outlives_scaling_and_compression(suffix: str, tmp_path: Path) -> None:
    pixels = drawn((480, 640), 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).resize((320, 240)).save(tmp_path / f"b.{suffix}")
    first, second = (look(tmp_path / name) for name in ("a.png", f"b.{suffix}"))
    assert (first ^ second).bit_count() <= 3
    other = perceptual_hash(np.asarray(Image.fromarray(drawn((480, 640), 4)).convert("L")))
    assert (first ^ other).bit_count() > 10


def test_a_turned_photograph_looks_like_its_upright_copy(tmp_path: Path) -> None:
    pixels = drawn((96, 160), 5)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "upright.png")
    assert np.array_equal(read_image(tmp_path / "turned.png"), pixels)
    assert look(tmp_path / "turned.png") == look(tmp_path / "upright.png")


def test_look_alikes_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(1, 2**63, 500, dtype=np.uint64)
    val = rng.integers(1, 2**63, 60, dtype=np.uint64)
    for place in range(30):  # 0 to 5 bits away
        bits = rng.choice(64, place % 6, replace=False)
        val[place] = train[place] ^ np.bitwise_or.reduce(
            np.uint64(1) << bits.astype(np.uint64), initial=np.uint64(0)
        )
    train[7] = 0  # could not be read
    found = near_duplicates(train, val)
    near = {
        v: [t for t in range(500) if train[t] and int(train[t] ^ val[v]).bit_count() <= 3]
        for v in range(60)
    }
    assert {v: [t] for v, t in found.items()} == {v: some for v, some in near.items() if some}
    assert len(found) == 20 - (7 % 6 <= 3)


def groups_csv(path: Path, rows: list[str]) -> str:
    path.write_text("\n".join(["image_id,group", *rows]) + "\n", encoding="utf-8")
    return str(path)


def test_groups_are_those_of_a_pattern_or_a_file(tmp_path: Path) -> None:
    ids = ["p1_a", "p1_b", "p2_a"]
    assert assign_groups(ids, None) == {name: name for name in ids}
    by_pattern = {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2"}
    assert assign_groups(ids, r"^(p\d+)_") == by_pattern
    assert assign_groups(ids, r"^p\d+") == by_pattern
    path = tmp_path / "groups.csv"
    assert assign_groups(ids, groups_csv(path, ["p1_a,p1", "p1_b,p1", "p2_a,p2"])) == by_pattern
    with pytest.raises(UserError, match=r"gives no group to 1 images, such as p2_a"):
        assign_groups(ids, "(p1)")
    with pytest.raises(UserError, match=r"groups\.csv, line 3: 'p1_a' has another group above"):
        assign_groups(ids, groups_csv(path, ["p1_a,p1", "p1_a,p2"]))
    with pytest.raises(UserError, match=r"groups\.csv, line 2: empty; give each image one group"):
        assign_groups(ids, groups_csv(path, ["p1_a,"]))
    path.write_text("id,patient\np1_a,p1\n")
    with pytest.raises(UserError, match=r"the columns are id, patient; name them image_id and"):
        assign_groups(ids, str(path))
    with pytest.raises(ValueError, match="neither a regular expression"):
        Data(groups="(")


def test_a_group_stays_on_one_side_of_the_fraction(sources: Sources, tmp_path: Path) -> None:
    names = sorted(path.stem for path in sources["train"][0].iterdir())
    rows = [f"{name},{'abc'[number % 3]}" for number, name in enumerate(names)]
    csv = groups_csv(tmp_path / "groups.csv", rows)
    index_dataset(
        {"train": sources["train"]}, tmp_path / "i.parquet", Data(groups=csv, val_fraction=0.2)
    )
    sides = {
        split: {
            names.index(Index(tmp_path / "i.parquet", split)[n].image_id) % 3
            for n in range(len(Index(tmp_path / "i.parquet", split)))
        }
        for split in ("train", "val")
    }
    assert len(sides["val"]) == 1
    assert not sides["train"] & sides["val"]


def test_a_group_that_spans_the_given_splits_is_an_error(sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"data\.groups: 'scene' is in train \(.*\) and in val \("
    ):
        index_dataset(sources, tmp_path / "index.parquet", Data(groups="^scene"))
