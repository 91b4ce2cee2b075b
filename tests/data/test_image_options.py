"""Images of the field: orientations, bands, bit depths, and what cannot be read."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import Data, ImageOptions
from mobile_sam.data.images import RecordError, check_image, read_image, read_unoriented
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import DatasetError, Index, check_shapes, read_indexed_image
from mobile_sam.paths import RunPaths
from tests.helpers.drawn import (
    HEIGHT,
    WIDTH,
    areas,
    coco,
    draw_image,
    dump,
    label_map,
    notes,
    picture,
    read,
    save,
)

STORED = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
SAVING: dict[str, dict[str, Any]] = {
    "jpg": {"quality": 95, "subsampling": 0},
    "png": {},
    "tif": {},
    "webp": {"lossless": True},
}


def with_orientation(path: Path, pixels: np.ndarray, orientation: int, **options: Any) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, pixels, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", SAVING)
def test_all_orientations_are_read_as_pillow_turns_them(
    suffix: str, orientation: int, tmp_path: Path
) -> None:
    path = with_orientation(tmp_path / f"a.{suffix}", STORED, orientation, **SAVING[suffix])
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(read_image(path), upright)
    facts = check_image(path)
    assert (facts.size, facts.stored_size) == (upright.shape[:2], (20, 30))
    assert facts.orientation == orientation
    ignoring = ImageOptions(exif_orientation="ignore")
    stored = read_image(path, ignoring)
    assert np.array_equal(stored, read_unoriented(path))
    assert np.abs(stored.astype(int) - STORED).mean() < (30 if suffix == "jpg" else 1e-9)
    assert check_image(path, ignoring).size == (20, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiffs_are_turned_like_others(orientation: int, tmp_path: Path) -> None:
    path, plain = tmp_path / "deep.tif", tmp_path / "plain.png"
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(path, STORED.astype(np.uint16) * 257, photometric="rgb", extratags=tag)
    with_orientation(plain, STORED, orientation)
    options = ImageOptions(intensity="bit_depth")
    assert np.array_equal(read_image(path, options), read_image(plain))
    assert check_image(path).size == check_image(plain).size


def tiff(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


FIVE = np.random.default_rng(1).integers(0, 256, (20, 30, 5)).astype(np.uint8)
LAYOUTS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "as tifffile stores an array": (FIVE, {}),
    "pixel by pixel": (FIVE, {"photometric": "minisblack", "planarconfig": "contig"}),
    "band by band": (
        np.moveaxis(FIVE, -1, 0),
        {"photometric": "minisblack", "planarconfig": "separate"},
    ),
    "a page each": (np.moveaxis(FIVE, -1, 0), {"photometric": "minisblack"}),
    "compressed": (FIVE, {"photometric": "minisblack", "planarconfig": "contig", "compression": 5}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_bands_are_selected_or_asked_for(name: str, tmp_path: Path) -> None:
    pixels, options = LAYOUTS[name]
    path = tiff(tmp_path / "a.tif", pixels, **options)
    for look in (read_image, check_image):
        with pytest.raises(RecordError, match=r"a\.tif: .*5 bands of uint8.*data\.bands"):
            look(path)
    chosen = read_image(path, ImageOptions(bands=(5, 1, 2)))
    assert np.array_equal(chosen, FIVE[..., [4, 0, 1]])
    grey = read_image(path, ImageOptions(bands=(3,)))
    assert np.array_equal(grey, np.repeat(FIVE[..., 2:3], 3, axis=2))
    with pytest.raises(RecordError, match=r"5 bands of uint8, but data\.bands selects \[6\]"):
        check_image(path, ImageOptions(bands=(6,)))


def test_bands_of_other_formats(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", STORED)
    swapped = read_image(path, ImageOptions(bands=(3, 2, 1)))
    assert np.array_equal(swapped, STORED[..., ::-1])


RAMP = np.linspace(0, 4095, 600).reshape(20, 30).astype(np.uint16)  # as of a camera of 12 bits
TO_8 = np.rint(RAMP / 4095 * 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colour", [False, True])
def test_12_bits_in_16_are_not_dark(suffix: str, colour: bool, tmp_path: Path) -> None:
    pixels = np.dstack([RAMP, RAMP[::-1], RAMP[:, ::-1]]) if colour else RAMP
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        cv2.imwrite(str(path), pixels[..., ::-1] if colour else pixels)
    else:
        tiff(path, pixels, photometric="rgb" if colour else "minisblack")
    found = read_image(path)
    assert np.abs(found[..., 0] - TO_8).max() <= 1
    if colour:
        assert np.abs(found[..., 1] - TO_8[::-1]).max() <= 1
    dark = read_image(path, ImageOptions(intensity="bit_depth"))
    assert dark.max() == 16


def test_a_hot_pixel_does_not_take_the_contrast(tmp_path: Path) -> None:
    hot = RAMP.copy()
    hot[3, 3] = 65535
    path = tiff(tmp_path / "a.tif", hot)
    others = np.ones(hot.shape, dtype=bool)
    others[3, 3] = False
    assert read_image(path)[others].max() <= 16
    for intensity in ((0, 4095), {"percentile": [0, 99.8]}):
        found = read_image(path, Data(intensity=intensity))[..., 0]
        assert np.abs(found - TO_8)[others].max() <= 2
        assert found[3, 3] == 255


def test_pixels_without_data_are_black_and_count_in_no_range(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32)
    values[0] = -9999
    path = tiff(tmp_path / "a.tif", values, extratags=[(42113, "s", 6, "-9999", True)])
    found = read_image(path)[..., 0]
    low, high = RAMP[1:].min(), RAMP.max()
    expected = (RAMP[1:].astype(float) - low) * 255 / (high - low)
    assert np.abs(found[1:] - expected).max() <= 1
    assert found[0].max() == 0


def test_bit_depth_of_real_numbers_is_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", RAMP.astype(np.float32))
    with pytest.raises(RecordError, match="float32 has no bit depth"):
        read_image(path, ImageOptions(intensity="bit_depth"))


def test_the_first_picture_of_a_phone_is_the_photograph(tmp_path: Path) -> None:
    image = Image.fromarray(STORED)
    path = tmp_path / "a.jpg"
    image.save(path, format="MPO", save_all=True, append_images=[image.resize((9, 6))])
    assert read_image(path).shape == (20, 30, 3)
    assert check_image(path).size == (20, 30)


def test_smaller_copies_within_a_tiff_are_no_pages(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(STORED, photometric="rgb")
        file.write(STORED[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(read_image(tmp_path / "a.tif"), STORED)
    assert check_image(tmp_path / "a.tif").size == (20, 30)


KINDS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(50), "HEIC, which is not supported; save it as JPEG"),
    "a web page": (b"<!DOCTYPE html><html>", "a web page, not an image"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer; run `git"),
    "macOS": (b"\0\5\x16\7" + bytes(50), "macOS metadata, not an image"),
    "NumPy": (b"\x93NUMPY" + bytes(50), "a NumPy array"),
    "noise": (b"abcdefg", "no known image format"),
    "a TIFF's head": (b"II*\0" + bytes(20), "cannot be read"),
}


@pytest.mark.parametrize("name", KINDS)
def test_files_that_are_no_images_are_named_by_their_kind(name: str, tmp_path: Path) -> None:
    content, message = KINDS[name]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for look in (read_image, check_image):
        with pytest.raises(RecordError, match=rf"a\.png: .*{message}"):
            look(path)


def test_what_is_too_large_is_named_and_can_be_allowed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("1", (1100, 1000)))
    with pytest.raises(RecordError, match=r"1100x1000 pixels are 1 megapixels, more than .*tiles"):
        check_image(path, ImageOptions(max_megapixels=1))
    assert check_image(path, ImageOptions(max_megapixels=1.2)).size == (1000, 1100)


def test_options_that_change_pixels_change_the_digest(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", STORED)
    plain = check_image(path).digest
    changed = [{"bands": (1, 1, 1)}, {"intensity": "bit_depth"}, {"exif_orientation": "ignore"}]
    digests = {check_image(path, ImageOptions(**options)).digest for options in changed}
    assert len(digests | {plain}) == 4
    assert check_image(path, ImageOptions(max_megapixels=1)).digest == plain


def test_an_index_remembers_how_its_images_are_read(tmp_path: Path) -> None:
    images = save(tmp_path / "images" / "a.png", picture()).parent
    masks = save(tmp_path / "masks" / "a.png", label_map()).parent
    read(images, masks, bands=[3, 2, 1])
    record = Index(tmp_path / "index.parquet", "val")[0]
    assert np.array_equal(read_indexed_image(record), picture()[..., ::-1])


def test_options_make_another_data_set(scenes: Path) -> None:
    plain = RunConfig(run_name="x")
    other = RunConfig(run_name="x", data=Data(bands=(3, 2, 1)))
    assert RunPaths(plain).dataset != RunPaths(other).dataset


# Orientation 6: stored on its side; of a square image the sizes agree either way.
def turned_data(tmp_path: Path, orientation: int, side: int | None) -> tuple[Path, Path]:
    upright = picture()[:side, :side]
    back = {1: 0, 6: 1, 3: 2, 8: 3}[orientation]
    stored = np.rot90(upright, back).copy()
    images = with_orientation(tmp_path / "images" / "a.png", stored, orientation).parent
    return images, tmp_path / "masks"


def test_masks_of_the_unturned_image_are_told_apart_by_their_size(tmp_path: Path) -> None:
    images, masks = turned_data(tmp_path, 6, None)
    save(masks / "a.png", np.rot90(label_map()).copy())
    message = r"64x96 pixels, its image 96x64 after its EXIF orientation \(6\) is applied.*'ignore'"
    with pytest.raises(DatasetError, match=message):
        read(images, masks)
    assert len(areas(images, masks, exif_orientation="ignore")) == 3


def test_a_coco_file_of_the_unturned_image_is_told_apart_by_its_size(tmp_path: Path) -> None:
    images, _ = turned_data(tmp_path, 8, None)
    content = coco()
    content["images"][0] |= {"width": HEIGHT, "height": WIDTH}
    with pytest.raises(DatasetError, match=r"annotations are of 64x96 .*data\.exif_orientation"):
        read(images, dump(tmp_path / "coco.json", content))


@pytest.mark.parametrize(("orientation", "side"), [(3, None), (6, 64), (8, 64)])
def test_masks_of_the_unturned_image_are_told_apart_by_its_edges(
    orientation: int, side: int | None, tmp_path: Path
) -> None:
    images, masks = turned_data(tmp_path, orientation, side)
    labels = label_map()[:side, :side]
    save(masks / "a.png", labels)
    assert len(areas(images, masks)) == 3
    assert f"EXIF orientation {orientation} turns the image; the masks would" in notes(images)
    back = {3: 2, 6: 1, 8: 3}[orientation]
    save(masks / "a.png", np.rot90(labels, back).copy())
    with pytest.raises(DatasetError, match="the masks match the unturned image"):
        read(images, masks)
    assert len(areas(images, masks, exif_orientation="ignore")) == 3
    assert len(areas(images, masks, exif_orientation="apply")) == 3


def test_images_thinner_than_a_pixel_of_the_model_frame_are_listed(tmp_path: Path) -> None:
    images = draw_image(tmp_path / "images")
    save(tmp_path / "masks" / "a.png", label_map())
    save(images / "thin.png", Image.new("RGB", (3000, 1)))
    save(tmp_path / "masks" / "thin.png", Image.new("1", (3000, 1), 1))
    target = tmp_path / "index.parquet"
    index_dataset({"val": (images, tmp_path / "masks")}, target)
    with pytest.raises(DatasetError, match=r"1 images are thinner .*1024: .*thin\.png"):
        check_shapes(target, 1024)
    check_shapes(target, 2048)
