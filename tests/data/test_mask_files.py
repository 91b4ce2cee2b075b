"""A mask file is read for what it shows, or refused with the cause and the remedy."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mobile_sam.data.index.table import DatasetError
from tests.helpers.drawn import (
    AREAS,
    HEIGHT,
    SQUARES,
    WIDTH,
    areas,
    draw_image,
    label_map,
    read,
    save,
    square,
)

WHITE = np.repeat((square(0)[..., None] * 255).astype(np.uint8), 3, axis=2)
OPAQUE = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
REST = HEIGHT * WIDTH - AREAS[0]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_image(tmp_path / "images")


def palette(numbers: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    image.putpalette([part for colour in colours for part in colour])
    return image


def through_jpeg(mask: np.ndarray, quality: int = 75) -> np.ndarray:
    content = io.BytesIO()
    Image.fromarray(mask).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content))


def grey_alpha(grey: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.merge("LA", [Image.fromarray(part) for part in (grey, alpha)])


WHITE_ALPHA = (square(0) * 255).astype(np.uint8)
BLACK = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
BINARY: dict[str, Image.Image] = {
    "8 bits": Image.fromarray(WHITE_ALPHA),
    "1 bit": Image.fromarray(square(0)),
    "16 bits": Image.fromarray(square(0).astype(np.uint16) * 1000),
    "white on black": Image.fromarray(WHITE),
    "a colour": Image.fromarray((WHITE // 255 * (0, 128, 7)).astype(np.uint8)),
    "opaque RGBA": Image.fromarray(np.dstack([WHITE, OPAQUE])),
    "opaque grey": grey_alpha(WHITE_ALPHA, OPAQUE),
    "half transparent everywhere": Image.fromarray(np.dstack([WHITE, OPAQUE // 2])),
    "shape in the transparency": Image.fromarray(np.dstack([*[BLACK] * 3, WHITE_ALPHA])),
    "white, shape in the transparency": Image.fromarray(np.dstack([*[OPAQUE] * 3, WHITE_ALPHA])),
    "colour and transparency agree": Image.fromarray(np.dstack([WHITE, WHITE_ALPHA])),
    "palette, black first": palette(square(0), (0, 0, 0), (200, 0, 0)),
    "palette of the web": Image.fromarray(WHITE).convert("P"),
}


@pytest.mark.parametrize("name", BINARY)
def test_a_file_for_each_object_is_read_by_its_colour(name: str, images: Path) -> None:
    masks = save(images.parent / "masks" / "a" / "1.png", BINARY[name]).parents[1]
    (seen,) = read(images, masks)["a"]
    assert np.array_equal(seen.mask, square(0))


@pytest.mark.parametrize("name", [name for name in BINARY if name != "palette of the web"])
def test_a_binary_label_map_is_one_segment(name: str, images: Path) -> None:
    masks = save(images.parent / "masks" / "a.png", BINARY[name]).parent
    (seen,) = read(images, masks)["a"]
    assert np.array_equal(seen.mask, square(0))


WHITE_FIRST: dict[str, Image.Image] = {
    "drawn": palette(~square(0), (255, 255, 255), (0, 0, 0)),
    "quantize": Image.fromarray(WHITE).quantize(2),
    "adaptive": Image.fromarray(WHITE).convert("P", palette=Image.Palette.ADAPTIVE, colors=2),
}


@pytest.mark.parametrize("place", ["a/1.png", "a.png"])
@pytest.mark.parametrize("name", WHITE_FIRST)
def test_a_palette_with_the_bright_colour_first_is_refused_or_read_as_told(
    name: str, place: str, images: Path
) -> None:
    masks = images.parent / "masks"
    save(masks / place, WHITE_FIRST[name])
    with pytest.raises(DatasetError, match=r"png: the object is the dark part by the stored num"):
        read(images, masks)
    assert AREAS[0] in areas(images, masks, read_masks_by="colour")
    assert areas(images, masks, read_masks_by="number") == [REST]


def test_a_binary_tiff_whose_zero_is_white_is_refused_or_read_as_told(images: Path) -> None:
    path = images.parent / "masks" / "a" / "1.tif"
    path.parent.mkdir(parents=True)
    tifffile.imwrite(path, WHITE_ALPHA, photometric="miniswhite")
    masks = path.parents[1]
    with pytest.raises(DatasetError, match=r"1\.tif: the stored numbers and the visible colours"):
        read(images, masks)
    assert areas(images, masks, read_masks_by="number") == [AREAS[0]]
    assert areas(images, masks, read_masks_by="colour") == [REST]


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint64, np.int64, np.float32])
def test_label_maps_are_read_by_the_stored_number(
    dtype: type, photometric: str, images: Path
) -> None:
    path = images.parent / "masks" / "a.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, label_map(dtype), photometric=photometric)
    seen = read(images, path.parent)["a"]
    assert [(item.name, item.area) for item in seen] == list(zip("123", AREAS, strict=True))


@pytest.mark.parametrize("values", [(1234567, 1234568, 1234569), (2**31 - 3, 2**31 - 2, 2**31 - 1)])
def test_large_label_values_are_exact_and_can_be_ignored(
    values: tuple[int, ...], images: Path
) -> None:
    masks = images.parent / "masks"
    masks.mkdir()
    np.save(masks / "a.npy", label_map(np.int64, values))
    seen = read(images, masks, ignore=[values[1]])["a"]
    assert {item.name: item.left_out for item in seen} == {
        str(values[0]): None,
        str(values[1]): "ignored",
        str(values[2]): None,
    }


def test_transparency_and_colour_that_disagree_are_refused(images: Path) -> None:
    pixels = np.dstack([WHITE, (square(1) * 255).astype(np.uint8)])
    masks = save(images.parent / "masks" / "a" / "1.png", pixels).parents[1]
    with pytest.raises(DatasetError, match=r"1\.png: the colours and the transparency give"):
        read(images, masks)


def test_colour_label_maps_have_a_segment_for_each_colour(images: Path) -> None:
    colours = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    drawn = [(128, 0, 0), (0, 128, 0), (224, 224, 192)]
    for number, colour in enumerate(drawn):
        colours[square(number)] = colour
    masks = save(images.parent / "masks" / "a.png", colours).parent
    (masks / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncell:128,0,0::\nnucleus:0,128,0::\n"
    )
    seen = read(images, masks, ignore=["#e0e0c0"])["a"]
    assert [(s.name, s.area, s.category, s.left_out) for s in seen] == [
        ("#008000", 720, "nucleus", None),
        ("#800000", 400, "cell", None),
        ("#e0e0c0", 540, None, "ignored"),
    ]


def test_values_of_a_palette_get_the_names_of_their_colours(images: Path) -> None:
    drawn = palette(label_map(), (0, 0, 0), (128, 0, 0), (0, 128, 0), (9, 9, 9))
    masks = save(images.parent / "classes" / "a.png", drawn).parent
    (images.parent / "labelmap.txt").write_text("cell:128,0,0::\nnucleus:0,128,0::\n")
    seen = read(images, masks, ignore=["3"])["a"]
    assert [(s.name, s.category, s.left_out) for s in seen] == [
        ("1", "cell", None),
        ("2", "nucleus", None),
        ("3", None, "ignored"),
    ]


def test_a_transparent_background_of_any_colour_is_background(images: Path) -> None:
    drawn = palette(label_map(), (255, 255, 255), (128, 0, 0), (0, 128, 0), (9, 9, 9))
    masks = save(images.parent / "masks" / "a.png", drawn, transparency=0).parent
    assert areas(images, masks) == AREAS


def test_a_bad_labelmap_names_its_line(images: Path) -> None:
    red = WHITE * np.array([1, 0, 0], dtype=np.uint8)
    masks = save(images.parent / "masks" / "a.png", red).parent
    (masks / "labelmap.txt").write_text("cell 128 0 0\n")
    with pytest.raises(DatasetError, match=r"labelmap\.txt: line 1: 'cell 128 0 0' is not"):
        read(images, masks)
    (masks / "labelmap.txt").write_bytes("größe:128,0,0::\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"labelmap\.txt: the text cannot be read .*UTF-8"):
        read(images, masks)


def disc() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (((x - 45) ** 2 + (y - 30) ** 2 < 400) * 255).astype(np.uint8)


def smoothed(mask: np.ndarray) -> np.ndarray:
    image = Image.fromarray(mask)
    return np.asarray(image.resize((WIDTH // 3, HEIGHT // 3)).resize((WIDTH, HEIGHT)))


def antialiased(mask: np.ndarray) -> np.ndarray:
    large = Image.fromarray(mask).resize((WIDTH * 4 + 40, HEIGHT * 4 + 40))
    return np.asarray(large.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))


SOFT = {
    "JPEG once": through_jpeg(disc()),
    "JPEG of low quality": through_jpeg(disc(), 40),
    "JPEG of high quality": through_jpeg(disc(), 95),
    "smoothed": smoothed(disc()),
    "antialiased": antialiased(disc()),
}


@pytest.mark.parametrize("place", ["a/1.png", "a.png"])
@pytest.mark.parametrize("name", SOFT)
def test_soft_masks_are_refused_or_thresholded(name: str, place: str, images: Path) -> None:
    masks = images.parent / "masks"
    save(masks / place, SOFT[name])
    with pytest.raises(DatasetError, match=r"the mask is not sharp: .*data\.soft_masks to a"):
        read(images, masks)
    (area,) = areas(images, masks, soft_masks=0.5)
    assert abs(area - (disc() > 0).sum()) < 80


@pytest.mark.parametrize("place", ["a/1.jpg", "a.jpg"])
def test_jpeg_masks_are_refused_or_thresholded(place: str, images: Path) -> None:
    masks = images.parent / "masks"
    save(masks / place, disc(), quality=75)
    with pytest.raises(DatasetError, match=r"jpg: JPEG changes the values .*data\.soft_masks"):
        read(images, masks)
    (area,) = areas(images, masks, soft_masks=0.5)
    assert abs(area - (disc() > 0).sum()) < 30


def test_resized_label_maps_are_refused_or_believed(images: Path) -> None:
    masks = images.parent / "masks"
    masks.mkdir()
    small = Image.fromarray(label_map(np.float32)).resize((WIDTH // 2, HEIGHT // 2))
    np.save(masks / "a.npy", np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)))
    with pytest.raises(DatasetError, match=r"a\.npy: the mask has values with fractions"):
        read(images, masks)
    (masks / "a.npy").unlink()
    whole = Image.fromarray(label_map()).resize((WIDTH // 2, HEIGHT // 2), 0)
    save(masks / "a.png", whole.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    with pytest.raises(DatasetError, match=r"a\.png: the mask is not sharp"):
        read(images, masks)
    assert len(areas(images, masks, soft_masks="labels")) == 3


def test_a_label_map_in_a_directory_of_masks_is_refused(images: Path) -> None:
    masks = save(images.parent / "masks" / "a" / "labels.png", label_map()).parents[1]
    with pytest.raises(
        DatasetError, match=r"labels\.png: the mask has 3 values .*label map, move it"
    ):
        read(images, masks)


REFUSED: dict[str, tuple[Any, str]] = {
    "(N, H, W)": (np.stack([square(n) for n in range(3)]), r"an array of shape \(3, 64, 96\)"),
    "(H, W, N)": (np.dstack([square(n) for n in range(3)]), r"an array of shape \(64, 96, 3\)"),
    "Python objects": (np.array({"masks": 1}, dtype=object), "Python objects, as cellpose's _seg"),
    "text": (np.full((HEIGHT, WIDTH), "x"), "holds <U1"),
    "not finite": (np.where(square(0), np.nan, 0), "NaN or infinite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_of_other_kinds_are_named(name: str, images: Path) -> None:
    array, message = REFUSED[name]
    masks = images.parent / "masks"
    masks.mkdir()
    np.save(masks / "a.npy", array, allow_pickle=True)
    with pytest.raises(DatasetError, match=rf"a\.npy: .*{message}"):
        read(images, masks)


def test_an_array_with_one_page_is_a_label_map(images: Path) -> None:
    masks = images.parent / "masks"
    masks.mkdir()
    np.save(masks / "a.npy", label_map()[None])
    assert areas(images, masks) == AREAS


def test_connected_components_become_objects(images: Path) -> None:
    union = square(0) | square(1) | square(2)
    masks = save(images.parent / "masks" / "a" / "all.png", union).parents[1]
    assert areas(images, masks) == [sum(AREAS)]
    seen = read(images, masks, split_components=True)["a"]
    assert sorted((s.name, s.area) for s in seen) == [
        ("all.1", 400),
        ("all.2", 720),
        ("all.3", 540),
    ]


def test_components_of_a_label_map_keep_their_value(images: Path) -> None:
    masks = save(images.parent / "masks" / "a.png", label_map(values=(1, 1, 2))).parent
    seen = read(images, masks, split_components=True, ignore=["2"])["a"]
    assert [(s.name, s.area, s.left_out) for s in seen] == [
        ("1.1", 400, None),
        ("1.2", 720, None),
        ("2.1", 540, "ignored"),
    ]


def test_pixels_that_touch_at_a_corner_are_two_objects(images: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[1, 1] = mask[2, 2] = True
    masks = save(images.parent / "masks" / "a.png", mask).parent
    assert areas(images, masks, split_components=True) == [1, 1]


def test_single_pixels_and_lines_are_no_soft_mask(images: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[0, 0], labels[0, -1], labels[-1, 0], labels[30, 30] = 1, 2, 3, 4
    labels[:, 50], labels[-1, 60:] = 5, 6
    masks = save(images.parent / "masks" / "a.png", labels).parent
    assert areas(images, masks) == [1, 1, 1, 1, HEIGHT, 36]


def test_masks_of_another_size_and_many_pages_are_named(images: Path) -> None:
    masks = save(images.parent / "masks" / "a.png", np.ones((5, 7), dtype=np.uint8)).parent
    with pytest.raises(DatasetError, match=r"a\.png: the mask is 7x5 pixels, its image 96x64"):
        read(images, masks)
    (masks / "a.png").unlink()
    tifffile.imwrite(masks / "a.tif", np.stack([label_map()] * 2), photometric="minisblack")
    with pytest.raises(DatasetError, match=r"a\.tif: the file has several pages"):
        read(images, masks)


def test_the_drawn_squares_have_the_areas_that_tests_expect() -> None:
    assert [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in SQUARES] == AREAS
