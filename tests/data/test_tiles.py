"""Tiles of large images: where they lie, what they show, and that the rest stays as it is."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mobile_sam.config.sections import Data, ImageOptions, Tile
from mobile_sam.data.images import RecordError, read_image
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.groups import assign_groups
from mobile_sam.data.index.table import (
    DatasetError,
    Index,
    IndexedImage,
    read_indexed_image,
    read_verified_image,
)
from mobile_sam.data.masks import decode, encode
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.data.tiles import Grid, Window, parse_tile_id, source_image, tile_id
from mobile_sam.data.windows import DecodedImages, open_in_place, read_window
from mobile_sam.system.errors import UserError

TILE = Tile(size=64, overlap=16)


@given(
    height=st.integers(1, 2000),
    width=st.integers(1, 2000),
    side=st.integers(64, 300),
    overlap=st.integers(0, 63),
    step=st.sampled_from([1, 2, 4]),
)
def test_tiles_cover_the_image_and_overlap_enough(
    height: int, width: int, side: int, overlap: int, step: int
) -> None:
    grid = Grid.of((height, width), Tile(size=side, overlap=overlap), step)
    for starts, length in ((grid.xs, width), (grid.ys, height)):
        assert starts[0] == 0
        assert all(start % step == 0 for start in starts)
        assert 0 <= starts[-1] - max(0, length - side * step) < step
        assert all(b - a <= (side - overlap) * step for a, b in pairwise(starts))
    windows = grid.windows()
    assert len({window.size for window in windows}) == 1
    assert len(set(windows)) == len(grid.xs) * len(grid.ys)


def test_ids_of_tiles_are_read_back() -> None:
    window = Window(2048, 1024, (512, 640), 4)
    assert tile_id("a/slide_07", window) == "a/slide_07@2048,1024/4"
    assert parse_tile_id("a/slide_07@2048,1024/4", (512, 640)) == window
    assert parse_tile_id(tile_id("x@1,2", Window(3, 4, (5, 6))), (5, 6)) == Window(3, 4, (5, 6))
    assert parse_tile_id("slide_07", (5, 6)) is None
    assert source_image("x@1,2@3,4") == "x@1,2"
    assert assign_groups(["s1@0,0", "s1@64,0", "s2"], Data(tile=TILE).units) == {
        "s1@0,0": "s1",
        "s1@64,0": "s1",
        "s2": "s2",
    }


PIXELS = np.random.default_rng(0).integers(0, 256, (150, 210, 3)).astype(np.uint8)
DEEP = (PIXELS[..., 0].astype(np.uint16) * 257)[:, ::-1]


def write(path: Path, kind: str) -> bool:
    """Write an image of a kind; return whether it is read in windows."""
    if kind in {"png", "bmp"}:
        Image.fromarray(PIXELS).save(path)
    elif kind == "turned":
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(PIXELS).save(path, exif=exif, quality=95)
    elif kind == "tiles":
        tifffile.imwrite(path, PIXELS, tile=(32, 48), photometric="rgb", compression="zlib")
    elif kind == "big":
        tifffile.imwrite(path, PIXELS[..., 0], tile=(64, 64), bigtiff=True)
    elif kind == "strips":
        tifffile.imwrite(path, PIXELS, rowsperstrip=8, photometric="rgb")
    elif kind == "pyramid":
        with tifffile.TiffWriter(path) as file:
            common = {"tile": (32, 32), "photometric": "rgb"}
            file.write(PIXELS, subifds=1, **common)
            file.write(PIXELS[::2, ::2], subfiletype=1, **common)
    elif kind == "deep":
        tifffile.imwrite(path, DEEP, tile=(32, 32))
    return kind in {"tiles", "big", "strips", "pyramid"}


@pytest.mark.parametrize(
    "name",
    [
        "png.png",
        "bmp.bmp",
        "turned.jpg",
        *(f"{k}.tif" for k in ("tiles", "big", "strips", "pyramid", "deep")),
    ],
)
def test_a_window_has_the_pixels_of_the_image(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    in_windows = write(path, path.stem)
    options, cache = ImageOptions(), DecodedImages(tmp_path / "decoded", 1.0)
    whole = read_image(path, options)
    assert (open_in_place(path, options) is not None) == in_windows
    for window in Grid.of(whole.shape[:2], TILE).windows():
        x0, y0, x1, y1 = window.box
        assert np.array_equal(read_window(path, options, window, cache), whole[y0:y1, x0:x1])
    assert len(list(tmp_path.glob("decoded/*.npy"))) == (0 if in_windows else 1)


def test_deep_pixels_with_a_fixed_range_are_read_in_windows(tmp_path: Path) -> None:
    path, options = tmp_path / "deep.tif", ImageOptions(intensity="bit_depth")
    write(path, "deep")
    image = open_in_place(path, options)
    assert image is not None
    assert image.size == DEEP.shape
    window = Window(10, 20, (64, 64))
    pixels = read_window(path, options, window, DecodedImages(tmp_path / "decoded", 1.0))
    assert np.array_equal(pixels, read_image(path, options)[20:84, 10:74])


def write_bands(path: Path, kind: str) -> None:
    """Write an image of five bands: by pixel, by plane, by page, or deep with missing values."""
    bands = np.random.default_rng(1).integers(0, 256, (5, 150, 210)).astype(np.uint8)
    if kind == "pixels":
        contig = {"planarconfig": "contig", "photometric": "minisblack"}
        tifffile.imwrite(path, np.moveaxis(bands, 0, -1), tile=(32, 32), **contig)
    elif kind == "planes":
        planes = {"planarconfig": "separate", "photometric": "minisblack"}
        tifffile.imwrite(path, bands, tile=(32, 32), **planes)
    elif kind == "pages":
        tifffile.imwrite(path, bands, tile=(32, 32), metadata={"axes": "CYX"})
    else:
        deep = np.moveaxis(bands, 0, -1).astype(np.float32)
        deep[:20, :30] = -1
        nodata = [(42113, "s", 3, "-1", False)]
        contig = {"planarconfig": "contig", "photometric": "minisblack"}
        tifffile.imwrite(path, deep, tile=(32, 32), extratags=nodata, **contig)


@pytest.mark.parametrize("kind", ["pixels", "planes", "pages", "deep"])
def test_selected_bands_are_read_in_windows(kind: str, tmp_path: Path) -> None:
    path, cache = tmp_path / "bands.tif", DecodedImages(tmp_path / "decoded", 1.0)
    write_bands(path, kind)
    for bands in ((4, 2, 1), (5,)):
        options = ImageOptions(bands=bands, intensity=(10, 200))
        whole = read_image(path, options)
        assert len(np.unique(whole)) > 50
        assert open_in_place(path, options) is not None
        for window in Grid.of(whole.shape[:2], TILE).windows():
            x0, y0, x1, y1 = window.box
            assert np.array_equal(read_window(path, options, window, cache), whole[y0:y1, x0:x1])
    if kind != "pages":
        assert open_in_place(path, ImageOptions()) is None


def test_a_step_reads_a_copy_of_the_pyramid(tmp_path: Path) -> None:
    """The copies have other values than the image; that of a third is of no use."""
    path, cache = tmp_path / "slide.tif", DecodedImages(tmp_path / "decoded", 1.0)
    image = np.full((150, 211), 10, np.uint8)
    with tifffile.TiffWriter(path) as file:
        file.write(image, tile=(32, 32), subifds=3)
        for step in (2, 3, 4):
            copy = np.full((-(-150 // step), 211 // step), 10 * step, np.uint8)
            copy[:, 5:] += 1
            file.write(copy, tile=(32, 32), subfiletype=1)
    values = {}
    for step in (1, 2, 4, 8):
        size = -(-150 // step), -(-211 // step)
        pixels = read_window(path, ImageOptions(), Window(0, 0, size, step), cache)
        assert pixels.shape == (*size, 3)
        values[step] = (int(pixels[0, 0, 0]), int(pixels[-1, -1, 0]))
    assert values == {1: (10, 10), 2: (20, 21), 4: (40, 41), 8: (40, 41)}
    shifted = read_window(path, ImageOptions(), Window(2, 0, (10, 10), 4), cache)
    assert shifted[0, 0, 0] == 20, "a quarter does not begin there, a half does"


def test_a_step_averages_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write(path, "png")
    cache = DecodedImages(tmp_path / "decoded", 1.0)
    small = read_window(path, ImageOptions(), Window(8, 4, (20, 30), 2), cache)
    expected = PIXELS[4:44, 8:68].reshape(20, 2, 30, 2, 3).mean((1, 3))
    assert np.abs(small - expected).max() <= 0.5


def test_decoded_images_stay_within_their_limit(tmp_path: Path) -> None:
    size = PIXELS.nbytes / 2**30
    cache = DecodedImages(tmp_path / "decoded", 2.5 * size)
    for name in "abc":
        path = tmp_path / f"{name}.png"
        write(path, "png")
        read_window(path, ImageOptions(), Window(0, 0, (8, 8)), cache)
        kept = set(cache.directory.glob("*.npy"))
        assert len(kept) <= 2
        assert cache.decoded(path, ImageOptions()).shape == PIXELS.shape
        assert set(cache.directory.glob("*.npy")) == kept, "the last one is still there"


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of 200 pixels, in tiled TIFFs, and two of 64 pixels, with label maps."""
    directory = tmp_path_factory.mktemp("slides")
    for split, seed in (("train", 0), ("val", 10)):
        for size, number in ((200, 0), (64, 1)):
            part = directory / f"{split}{size}"
            write_scenes(part, 1, size, seed + number)
            target = directory / split
            (target / "image").mkdir(parents=True, exist_ok=True)
            (target / "mask").mkdir(parents=True, exist_ok=True)
            (image,) = (part / "image").iterdir()
            name = f"{'slide' if size == 200 else 'small'}"
            tifffile.imwrite(
                target / "image" / f"{name}.tif",
                np.asarray(Image.open(image)),
                tile=(32, 32),
                photometric="rgb",
            )
            (mask,) = (part / "mask").iterdir()
            shutil.move(mask, target / "mask" / (name + mask.suffix))
            shutil.rmtree(part)
    return directory


def indexed(directory: Path, target: Path, **options: Any) -> dict[str, list[IndexedImage]]:
    sources = {s: (directory / s / "image", directory / s / "mask") for s in ("train", "val")}
    index_dataset(sources, target, Data(**options))
    indexes = {split: Index(target, split) for split in sources}
    return {split: [index[n] for n in range(len(index))] for split, index in indexes.items()}


def test_each_object_is_in_tiles_that_show_it_and_validated_once(
    slides: Path, tmp_path: Path
) -> None:
    whole = indexed(slides, tmp_path / "whole.parquet")
    tiled = indexed(slides, tmp_path / "tiled.parquet", tile=TILE)
    for split in ("train", "val"):
        (slide,) = (image for image in whole[split] if image.image_id == "slide")
        tiles = [image for image in tiled[split] if image.image_id.startswith("slide@")]
        names = [segment.segment_id for tile in tiles for segment in tile.segments]
        assert set(names) == {segment.segment_id for segment in slide.segments}
        if split == "val":
            assert len(names) == len(set(names))
        pixels = read_image(slide.path)
        for tile in tiles:
            assert tile.window is not None
            x0, y0, x1, y1 = tile.window.box
            if tile.window.step == 1:
                assert np.array_equal(read_indexed_image(tile), pixels[y0:y1, x0:x1])
            assert np.array_equal(read_verified_image(tile), read_indexed_image(tile))
            for segment in tile.segments:
                (original,) = (s for s in slide.segments if s.segment_id == segment.segment_id)
                inside = slide.mask(original)[y0:y1, x0:x1]
                if tile.window.step == 1:
                    assert np.array_equal(decode(segment.rle, tile.size), inside)
                    assert segment.area == inside.sum()
                else:
                    assert max(np.ptp(np.nonzero(slide.mask(original)), axis=1)) >= 64


def test_images_no_larger_than_a_tile_are_as_without_tiles(slides: Path, tmp_path: Path) -> None:
    whole = indexed(slides, tmp_path / "whole.parquet")
    tiled = indexed(slides, tmp_path / "tiled.parquet", tile=TILE)
    for split in ("train", "val"):
        (one,) = (image for image in whole[split] if image.image_id == "small")
        (other,) = (image for image in tiled[split] if image.image_id == "small")
        assert other.window is None
        assert (one.digest, one.segments, one.size) == (other.digest, other.segments, other.size)


def test_a_truncated_image_is_named_and_others_are_kept(slides: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(slides, tmp_path / "data"))
    path = data / "train" / "image" / "slide.tif"
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(DatasetError, match=r"slide\.tif: the image cannot be read"):
        indexed(data, tmp_path / "index.parquet", tile=TILE)


def test_changed_pixels_and_wrong_settings_are_named(slides: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(slides, tmp_path / "data"))
    image = indexed(data, tmp_path / "index.parquet", tile=TILE)["train"][0]
    pixels = np.asarray(Image.open(image.path)) // 2
    tifffile.imwrite(image.path, pixels, tile=(32, 32), photometric="rgb")
    with pytest.raises(RecordError, match="the image has changed since it was indexed"):
        read_verified_image(image)
    shutil.move(image.path, image.path.with_name("a@3,4.tif"))
    (mask,) = (data / "train" / "mask").glob("slide*")
    shutil.move(mask, mask.with_name(f"a@3,4{mask.suffix}"))
    with pytest.raises(UserError, match=r"names that end like 'a@3,4' are those of tiles"):
        indexed(data, tmp_path / "index.parquet", tile=TILE)
    with pytest.raises(ValueError, match="overlap: 64 must be less than size, 64"):
        Tile(size=64, overlap=64)


def slide_with_masks(
    directory: Path, masks: dict[str, np.ndarray], **annotation: Any
) -> dict[str, tuple[Path, Path]]:
    """One image, in `train` and changed in `val`, with a COCO file of these masks."""
    sources = {}
    for split, shade in (("train", 100), ("val", 90)):
        (directory / split).mkdir(parents=True)
        shape = next(iter(masks.values())).shape
        pixels = np.full((*shape, 3), shade, dtype=np.uint8)
        tifffile.imwrite(directory / split / "a.tif", pixels, tile=(32, 32), photometric="rgb")
        annotations = [
            {
                "id": n,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": int(name.startswith("crowd")),
                "segmentation": {"size": list(shape), "counts": encode(mask).decode()},
            }
            for n, (name, mask) in enumerate(masks.items(), start=1)
        ]
        image = {"id": 1, "file_name": "a.tif", "height": shape[0], "width": shape[1]}
        content = {"images": [image], "categories": [{"id": 1, "name": "x"}]}
        content["annotations"] = annotations + annotation.get("more", [])
        (directory / f"{split}.json").write_text(json.dumps(content))
        sources[split] = (directory / split, directory / f"{split}.json")
    return sources


def box_mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((300, 300), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def tiles_of(sources: dict[str, tuple[Path, Path]], target: Path, **options: Any) -> Any:
    index_dataset(sources, target, Data(tile=TILE, **options))
    indexes = {split: Index(target, split) for split in ("train", "val")}
    return {split: [index[n] for n in range(len(index))] for split, index in indexes.items()}


def test_a_tile_trains_on_what_it_shows_enough_of(tmp_path: Path) -> None:
    """Tiles begin at 0, 47, 94, ...: 30 of 40 columns are in the first, 27 in the second."""
    sources = slide_with_masks(tmp_path, {"a": box_mask(34, 5, 74, 15)})
    both = tiles_of(sources, tmp_path / "both.parquet")["train"]
    assert [tile.image_id for tile in both] == ["a@0,0", "a@47,0"]
    strict = Data(tile=TILE.model_copy(update={"min_visible": 0.7}))
    index_dataset(sources, tmp_path / "one.parquet", strict)
    index = Index(tmp_path / "one.parquet", "train")
    assert [index[n].image_id for n in range(len(index))] == ["a@0,0"]
    (segment,) = index[0].segments
    assert segment.box == (34, 5, 64, 15)


def test_thin_objects_that_are_larger_than_a_tile_are_kept(tmp_path: Path) -> None:
    masks = {"thin": box_mask(10, 100, 290, 101), "road": box_mask(40, 5, 43, 295)}
    found = tiles_of(slide_with_masks(tmp_path, masks), tmp_path / "index.parquet")
    for split in ("train", "val"):
        assert {s.segment_id for tile in found[split] for s in tile.segments} == {"1", "2"}
    (thin,) = (s for tile in found["val"] for s in tile.segments if s.segment_id == "1")
    assert thin.area >= 280 / 8


def test_an_enlarged_tile_shows_the_object_at_its_place(tmp_path: Path) -> None:
    found = tiles_of(
        slide_with_masks(tmp_path, {"a": box_mask(96, 160, 224, 288)}), tmp_path / "index.parquet"
    )
    (tile,) = found["val"]
    assert tile.window is not None
    x, y, _, _ = tile.window.box
    (segment,) = tile.segments
    step = tile.window.step
    assert step == 4  # with 2, tiles begin at 0, 86 and 172, and none shows all of it
    edges = [(96 - x) / step, (160 - y) / step, (224 - x) / step, (288 - y) / step]
    assert np.abs(np.array(segment.box) - edges).max() <= 1
    assert segment.area == pytest.approx(32 * 32, rel=0.05)


def test_crowds_are_unknown_in_each_tile_that_shows_them(tmp_path: Path) -> None:
    masks = {"a": box_mask(5, 5, 20, 20), "crowd": box_mask(15, 15, 300, 300)}
    (tile,) = tiles_of(slide_with_masks(tmp_path, masks), tmp_path / "index.parquet")["train"]
    unknown = box_mask(15, 15, 64, 64)[:64, :64]
    unknown[15:20, 15:20] = False
    assert np.array_equal(tile.unknown(), unknown)


def test_a_problem_with_one_annotation_leaves_the_others_in_tiles(tmp_path: Path) -> None:
    wrong = {"id": 9, "image_id": 1, "category_id": 1, "segmentation": [[1, 2, 3, 4]]}
    sources = slide_with_masks(tmp_path, {"a": box_mask(5, 5, 20, 20)}, more=[wrong])
    for tile in tiles_of(sources, tmp_path / "index.parquet", max_broken=2)["train"]:
        assert tile.window is not None
        assert len(tile.digest) == 32


def test_copies_are_found_whichever_of_their_tiles_are_used(tmp_path: Path) -> None:
    sources = slide_with_masks(tmp_path / "a", {"a": box_mask(5, 5, 20, 20)})
    others = slide_with_masks(tmp_path / "b", {"a": box_mask(205, 205, 220, 220)})
    with pytest.raises(DatasetError, match="the same image as the training image"):
        tiles_of(
            {"train": sources["train"], "val": (others["train"][0], others["train"][1])},
            tmp_path / "index.parquet",
        )
    (tmp_path / "more").mkdir()
    shutil.copy(sources["val"][0] / "a.tif", tmp_path / "more" / "copy.tif")
    pixels = np.zeros((130, 64, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "more" / "new.tif", pixels, tile=(32, 32), photometric="rgb")
    unlabelled = {**sources, "unlabelled": (tmp_path / "more",)}
    index_dataset(unlabelled, tmp_path / "index.parquet", Data(tile=TILE))
    index = Index(tmp_path / "index.parquet", "unlabelled")
    ids = [index[n].image_id for n in range(len(index))]
    assert ids == ["new@0,0", "new@0,33", "new@0,66"]


def test_groups_are_those_of_images(tmp_path: Path) -> None:
    tiles = ["p1_03@0,48", "p1_04@5,6/2", "p2_01"]
    expected = dict(zip(tiles, ("p1", "p1", "p2"), strict=True))
    assert assign_groups(tiles, r"^(.+)_\d+$") == expected
    (tmp_path / "groups.csv").write_text("image_id,group\np1_03,p1\np1_04,p1\np2_01,p2\n")
    assert assign_groups(tiles, str(tmp_path / "groups.csv")) == expected


def test_files_that_blocks_would_misread_are_decoded(tmp_path: Path) -> None:
    grey = np.arange(16, dtype=np.uint8).repeat(256).reshape(64, 64)
    tifffile.imwrite(tmp_path / "four.tif", grey, bitspersample=4, rowsperstrip=8)
    colours = {"photometric": "rgb", "tile": (32, 32), "extrasamples": ["ASSOCALPHA"]}
    tifffile.imwrite(tmp_path / "alpha.tif", np.full((64, 64, 4), 99, np.uint8), **colours)
    for name in ("four", "alpha"):
        path = tmp_path / f"{name}.tif"
        assert open_in_place(path, ImageOptions()) is None
        window = Window(8, 8, (40, 40))
        pixels = read_window(path, ImageOptions(), window, DecodedImages(tmp_path / "d", 1.0))
        assert np.array_equal(pixels, read_image(path)[8:48, 8:48])


def test_a_decoded_image_that_another_process_deletes_is_decoded_again(tmp_path: Path) -> None:
    cache = DecodedImages(tmp_path / "decoded", 1.0)
    write(tmp_path / "png.png", "png")
    first = cache.decoded(tmp_path / "png.png", ImageOptions())
    next(cache.directory.glob("*.npy")).unlink()
    assert np.array_equal(cache.decoded(tmp_path / "png.png", ImageOptions()), first)
