"""OME-Zarr directories as images: found, read as a whole and in windows, and refused by name."""

import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.config.sections import Data, ImageOptions, Tile
from mobile_sam.data.images import RecordError, check_image, read_image, read_verified
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index, read_verified_image
from mobile_sam.data.ome_zarr import open_ome_zarr
from mobile_sam.data.records import find_records, find_unlabelled
from mobile_sam.data.tiles import Window
from mobile_sam.data.windows import DecodedImages, is_large, open_in_place, read_window

COLOURS = np.random.default_rng(0).integers(0, 256, (3, 150, 210)).astype(np.uint8)
TILE = Tile(size=64, overlap=16)


def write(path: Path, pixels: NDArray[Any], axes: str, version: str = "0.5") -> None:
    """Write an image with two levels, the second one of half the size and all zeros."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    half = np.zeros(
        (*pixels.shape[:-2], pixels.shape[-2] // 2, pixels.shape[-1] // 2), pixels.dtype
    )
    for name, level in (("0", pixels), ("1", half)):
        chunks = (*(1 for _ in axes[:-2]), 32, 32)
        group.create_array(name, shape=level.shape, chunks=chunks, dtype=level.dtype)[:] = level
    named: Any = [{"name": axis, "type": "space" if axis in "zyx" else axis} for axis in axes]
    for axis in named[-2:]:
        axis["unit"] = "micrometer"
    scale = {"type": "scale", "scale": [*(1.0 for _ in axes[:-2]), 0.25, 0.5]}
    datasets = [{"path": name, "coordinateTransformations": [scale]} for name in "01"]
    multiscales: Any = [{"axes": named, "datasets": datasets, "version": version}]
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": multiscales}
    else:
        group.attrs["multiscales"] = multiscales


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "tczyx"])
def test_colours_are_read_as_a_whole_and_in_windows(
    axes: str, version: str, tmp_path: Path
) -> None:
    path, cache = tmp_path / "slide.ome.zarr", DecodedImages(tmp_path / "decoded", 1.0)
    pixels = COLOURS if axes == "cyx" else COLOURS[None, :, None]
    write(path, pixels, axes, version)
    expected = np.moveaxis(COLOURS, 0, -1)
    assert np.array_equal(read_image(path), expected)
    window = read_window(path, ImageOptions(), Window(100, 90, (60, 110)), cache)
    assert np.array_equal(window, expected[90:150, 100:210])
    assert not read_window(path, ImageOptions(), Window(0, 0, (75, 105), 2), cache).any()
    assert not cache.directory.exists()
    assert open_ome_zarr(path).pixel_size == pytest.approx((0.5e-6, 0.25e-6))
    assert is_large(path, ImageOptions(), TILE)


def test_grey_bands_and_deep_values(tmp_path: Path) -> None:
    grey, many, deep = (tmp_path / f"{name}.zarr" for name in ("grey", "many", "deep"))
    write(grey, COLOURS[0], "yx")
    assert np.array_equal(read_image(grey)[..., 2], COLOURS[0])
    write(many, COLOURS[[0, 1, 2, 0]], "cyx")
    with pytest.raises(RecordError, match=r"many.zarr: .*4 bands of uint8; select three with data"):
        read_image(many)
    bands = ImageOptions(bands=(4, 2, 3))
    assert np.array_equal(read_image(many, bands), np.moveaxis(COLOURS, 0, -1))
    write(deep, COLOURS[0].astype(np.uint16) * 257, "yx")
    fixed = ImageOptions(intensity="bit_depth")
    assert np.array_equal(read_image(deep, fixed)[..., 0], COLOURS[0])
    assert open_in_place(deep, fixed) is not None
    assert open_in_place(deep, ImageOptions()) is None, "its range is that of all pixels"


def test_an_index_of_directories(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    masks.mkdir()
    labels = np.zeros((150, 210), np.uint8)
    labels[10:40, 20:60] = 1
    labels[100:140, 150:200] = 2
    write(images / "slide.ome.zarr", COLOURS, "cyx")
    write(images / "small.zarr", COLOURS[:, :50, :60], "cyx")
    Image.fromarray(labels).save(masks / "slide.png")
    Image.fromarray(labels[:50, :60]).save(masks / "small.png")
    options = Data(tile=TILE, val_fraction=0.5)
    found = find_records(images, masks, options)
    assert [record.image_id for record in found.records] == ["slide", "small"]
    assert [record.image_id for record in find_unlabelled(images).records] == ["slide", "small"]
    index = tmp_path / "index.parquet"
    index_dataset({"train": (images, masks)}, index, options)
    records = [r for split in ("train", "val") for r in Index(index, split)]
    names = {record.image_id.partition("@")[0] for record in records}
    assert names == {"slide", "small"}
    assert any("@" in record.image_id for record in records)
    for record in records:
        assert read_verified_image(record).shape[:2] == record.size


def test_a_changed_chunk_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write(path, COLOURS[:, :50, :60], "cyx")
    facts = check_image(path)
    assert facts.size == (50, 60)
    read_verified(path, ImageOptions(), facts.digest)
    stamp = list(find_unlabelled(tmp_path).records[0].stamp())
    zarr.open_array(path / "0", mode="r+")[0, 0, 0] = 255 - COLOURS[0, 0, 0]
    assert list(find_unlabelled(tmp_path).records[0].stamp()) != stamp
    with pytest.raises(RecordError, match="changed since it was indexed"):
        read_verified(path, ImageOptions(), facts.digest)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("slot", ["compressor", "filters"])
def test_chunks_that_could_run_code_are_not_read(slot: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "a.zarr", tmp_path / "mark"
    write(path, COLOURS, "cyx", version="0.4")
    metadata = json.loads((path / "0" / ".zarray").read_text())
    pickled = {"id": "pickle", "protocol": 5}
    metadata |= {"compressor": None, slot: pickled if slot == "compressor" else [pickled]}
    (path / "0" / ".zarray").write_text(json.dumps(metadata))
    for chunk in (path / "0").iterdir():
        if not chunk.name.startswith("."):
            chunk.write_bytes(pickle.dumps(Touch(mark)))
    with pytest.raises(RecordError, match=r"Python objects|cannot be read"):
        read_image(path)
    assert not mark.exists()


def refused(path: Path) -> str:
    with pytest.raises(RecordError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_is_no_image_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    path = tmp_path / "a.zarr"
    path.mkdir()
    assert "cannot be read" in refused(path)
    zarr.open_group(path, mode="w")
    assert "no `multiscales` of OME-Zarr" in refused(path)
    write(path, np.stack([COLOURS, COLOURS]), "zcyx")
    assert "several planes (z 2)" in refused(path)
    write(path, COLOURS, "cyx")
    shutil.rmtree(path / "1")
    assert "the pyramid level '1' that its metadata lists is missing" in refused(path)
    write(path, COLOURS, "cyx")
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["ome"]["multiscales"][0]["axes"].reverse()
    (path / "zarr.json").write_text(json.dumps(metadata))
    assert "the last two must be y and x" in refused(path)
    write(path, COLOURS, "cyx")
    chunk = next(each for each in (path / "0").rglob("*") if each.is_file() and each.name == "0")
    chunk.write_bytes(chunk.read_bytes()[:10])
    assert "cannot be read" in refused(path)
