"""Cards show masks over the image, and carry files with the masks themselves."""

import numpy as np
import pytest

from mobile_sam.app.cards import Card, RenderedImage, html, label_file, mask_file, milliseconds
from mobile_sam.data.masks import EncodedMasks, encode
from tests.helpers.images import pixels_of


def test_a_mask_file_has_255_on_the_thing_in_the_size_of_the_picture() -> None:
    mask = np.zeros((30, 70), dtype=bool)
    mask[3:9, 60:] = True
    file = mask_file(mask, "a_start.png")
    assert file.file_name == "a_start.png"
    pixels = pixels_of(file.uri)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, mask * 255)


def test_a_label_file_numbers_masks_with_the_small_ones_on_top() -> None:
    masks = np.zeros((300, 5, 400), dtype=bool)
    for number, mask in enumerate(masks):
        mask[0, number] = True
    masks[0, :] = True
    coded = EncodedMasks(map(encode, masks), (5, 400))
    labels = pixels_of(label_file(coded, "a.png").uri)
    assert labels.dtype == np.uint16
    assert labels[0, 1:300].tolist() == list(range(2, 301))
    assert (labels[1:] == 1).all()


@pytest.mark.parametrize(
    ("size", "side", "wanted"),
    [
        ((64, 48), 768, (512, 384)),
        ((64, 48), 192, (192, 144)),
        ((400, 600), 768, (400, 600)),
        ((1000, 2000), 768, (384, 768)),
        ((1, 3000), 768, (1, 768)),
    ],
)
def test_a_picture_is_shown_neither_too_large_nor_too_small(
    size: tuple[int, int], side: int, wanted: tuple[int, int]
) -> None:
    shown = RenderedImage(np.zeros((*size, 3), dtype=np.uint8), side)
    assert shown.size == wanted
    assert pixels_of(shown.uri()).shape == (*wanted, 3)


def test_masks_lie_over_the_picture_where_they_are() -> None:
    grey = np.full((100, 100, 3), 128, dtype=np.uint8)
    mask, truth = np.zeros((2, 100, 100), dtype=bool)
    mask[20:40, 20:40], truth[60:80, 60:80] = True, True
    shown = pixels_of(RenderedImage(grey).with_masks([mask])).astype(int)
    assert np.abs(shown[110:190, 110:190] - 128).max(-1).min() > 20  # the tint
    assert np.abs(shown[310:390, 310:390] - 128).max() < 10
    lit = pixels_of(RenderedImage(grey).highlight(mask, truth)).astype(int)
    assert np.abs(lit[110:190, 110:190] - shown[110:190, 110:190]).max() < 10
    assert np.abs(lit[310:390, 310:390] - 64).max() < 10  # the truth is an outline
    assert lit[298:304, 320:380].max() > 180


def test_what_cards_say_is_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    card = Card(evil, "data:,", ((evil, evil),), evil, evil, mask_file(np.eye(3) > 0, '">' + evil))
    page = html([card])
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x") >= 6


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.234, "1.2 ms"), (56.7, "57 ms"), (9_999.0, "9999 ms"), (12_345.0, "12.3 s")],
)
def test_times_have_few_digits(value: float, words: str) -> None:
    assert milliseconds(value) == words
