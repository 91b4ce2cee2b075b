"""Data of others: annotations that lie, and paths that lead elsewhere."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.config.sections import Data
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index
from mobile_sam.evaluation.detections import read_detections
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import UserError
from mobile_sam.training.setup import training_set
from tests.helpers import formats
from tests.helpers.formats import SQUARE, coco_of_one

Make = Callable[..., RunConfig]
DEEP = b'{"x": ' + b"[" * 100_000
POLYGONS = {
    "beyond 32 bits": [[0, 0, 1e9, 0, 1e9, 1e9]],
    "beyond 64 bits": [[0, 0, 1e300, 0, 5, 5]],
    "far on the left": [[-1e6, 0, 5, 0, 5, 5]],
}


@pytest.mark.parametrize("name", POLYGONS)
def test_polygons_that_would_fill_the_memory_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"annotation 5: a polygon has a point at .*, far from its"):
        index_dataset(coco_of_one(tmp_path, POLYGONS[name]), tmp_path / "index.parquet")


def test_polygons_may_end_a_little_outside_of_the_image(tmp_path: Path) -> None:
    sources = coco_of_one(tmp_path, [[-3, -3, 70, -3, 70, 70, -3, 70]])
    same = Data(duplicates="allow")  # one image for both splits
    assert index_dataset(sources, tmp_path / "index.parquet", same) == 2


def test_json_of_endless_depth_is_refused(tmp_path: Path) -> None:
    sources = coco_of_one(tmp_path, SQUARE)
    (tmp_path / "coco.json").write_bytes(DEEP)
    with pytest.raises(UserError, match=r"not JSON \(maximum recursion depth"):
        index_dataset(sources, tmp_path / "index.parquet")
    (tmp_path / "boxes.json").write_bytes(b'[{"y": 1, ' + DEEP[1:])
    with pytest.raises(UserError, match="not in COCO's results format"):
        read_detections(tmp_path / "boxes.json")


def huge_png() -> bytes:
    """The head of a grey image of 3.6 gigapixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunks = [head, b"IDAT"]
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("place", ["images/a.png", "masks/a.png"])
def test_images_and_masks_of_gigapixels_are_refused(place: str, tmp_path: Path) -> None:
    sources = coco_of_one(tmp_path, SQUARE)
    (tmp_path / "masks").mkdir()
    (tmp_path / place).write_bytes(huge_png())
    if place.startswith("masks"):
        sources = {split: (images, tmp_path / "masks") for split, (images, _) in sources.items()}
    with pytest.raises(UserError, match=r"a\.png: 60000x60000 pixels .*max_megapixels"):
        index_dataset(sources, tmp_path / "index.parquet")


def with_image_path(path: Path, image_path: Path) -> None:
    file = pq.ParquetFile(path)
    table = file.read()
    place = table.schema.get_field_index("image_path")
    table = table.set_column(place, "image_path", pa.array([str(image_path)] * len(table)))
    with pq.ParquetWriter(path, table.schema, write_statistics=["image"]) as writer:
        for split in ("train", "val"):
            writer.write_table(table.filter(pc.equal(table["split"], split)))
        content = (file.metadata.metadata or {}).get(b"mobile_sam")
        writer.add_key_value_metadata({"mobile_sam": content} if content else {})


def test_a_file_that_an_index_names_is_only_ever_read_as_an_image(
    tiny: Make, tmp_path: Path
) -> None:
    config, secret = tiny(), tmp_path / "secret"
    secret.write_text("the password")
    with_image_path(RunPaths(config).index, secret)
    with pytest.raises(UserError, match="secret: the image cannot be read") as caught:
        training_set(config, normalise(config)[0])[0]
    assert "password" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../secret.png", "/secret.png", "a/../../secret.png", "..", "", "/", "images/.."]
)
def test_names_in_coco_stay_in_the_directory_of_images(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    name = name.replace("/secret", f"{tmp_path}/secret") if name == "/secret.png" else name
    listed = {"id": 1, "file_name": name, "height": 64, "width": 64}
    sources = coco_of_one(tmp_path, SQUARE, images=[listed])
    message = (
        r"file_name .* points outside of .*; make it relative"
        if name
        else "image 1 has no file_name"
    )
    with pytest.raises(UserError, match=rf"coco\.json: {message}"):
        index_dataset(sources, tmp_path / "index.parquet")
    assert not (tmp_path / "index.parquet").exists()


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a/" + "x" * 300 + ".png"])
def test_names_in_coco_that_no_disk_can_hold_are_those_of_missing_images(
    name: str, tmp_path: Path
) -> None:
    listed = {"id": 1, "file_name": name, "height": 64, "width": 64}
    sources = coco_of_one(tmp_path, SQUARE, images=[listed])
    with pytest.raises(UserError, match=r"coco\.json: there is no image .*x\.png; add it there"):
        index_dataset(sources, tmp_path / "index.parquet")


def test_ids_in_coco_that_are_no_numbers_of_python_are_text(tmp_path: Path) -> None:
    number = "1" * 5000
    image = {"id": number, "file_name": "a.png", "height": 64, "width": 64}
    annotation = {"id": 5, "image_id": number, "segmentation": SQUARE}
    sources = coco_of_one(tmp_path, SQUARE, images=[image], annotations=[annotation])
    same = Data(duplicates="allow")  # one image for both splits
    assert index_dataset(sources, tmp_path / "index.parquet", same) == 2


def test_names_in_sa1b_are_not_followed(scenes: Path, tmp_path: Path) -> None:
    sources = {}
    for split in ("train", "val"):
        split_dir = tmp_path / split
        for image, masks in formats.masks_of(scenes / split):
            (split_dir / "mask" / image.stem).mkdir(parents=True)
            (split_dir / "image").mkdir(exist_ok=True)
            (split_dir / "image" / image.name).write_bytes(image.read_bytes())
            for number, mask in enumerate(masks):
                Image.fromarray(mask).save(split_dir / "mask" / image.stem / f"{number}.png")
        place = formats.as_sa1b(split_dir)
        for path in place.glob("*.json"):
            path.write_text(path.read_text().replace('"file_name": "', '"file_name": "../../'))
        sources[split] = (place, place)
    index_dataset(sources, tmp_path / "index.parquet")
    index = Index(tmp_path / "index.parquet", "train")
    assert {index[i].path.parent for i in range(len(index))} == {tmp_path / "train" / "image"}


def test_a_subset_chooses_among_the_images_that_are_there(scenes: Path, tmp_path: Path) -> None:
    sources = {s: (scenes / s / "image", scenes / s / "mask") for s in ("train", "val")}
    subset, options = tmp_path / "subset.txt", Data(subset=str(tmp_path / "subset.txt"))
    subset.write_text("../val/image/scene_00000\n")
    with pytest.raises(UserError, match=r"subset\.txt: there is no image '\.\./val/image/scene"):
        index_dataset(sources, tmp_path / "index.parquet", options)
    subset.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"data\.subset: .*subset\.txt: the text cannot be"):
        index_dataset(sources, tmp_path / "index.parquet", options)
