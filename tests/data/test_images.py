"""Images of every kind become upright RGB pixels, and broken ones are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobile_sam.data.images import RecordError, check_image, read_image

RAMP = np.linspace(0, 255, 48 * 64).reshape(48, 64)
COLOURS = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 90)], axis=2).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_grey_of_8_bits(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(RAMP.astype(np.uint8)))
    assert np.array_equal(read_image(path), np.repeat(RAMP.astype(np.uint8)[..., None], 3, 2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_16_bits_is_stretched_to_its_own_range(suffix: str, tmp_path: Path) -> None:
    deep = (1000 + RAMP * 12).astype(np.uint16)  # as of a 12-bit camera
    pixels = read_image(saved(tmp_path / f"a{suffix}", Image.fromarray(deep)))
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels[..., 0] - RAMP).max() <= 1


def test_grey_of_32_bit_floats(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray((RAMP / 1000).astype(np.float32)))
    assert np.abs(read_image(path)[..., 0] - RAMP).max() <= 1


def test_pixels_that_are_not_finite_are_named(tmp_path: Path) -> None:
    holes = RAMP.astype(np.float32).copy()
    holes[3, 3] = np.nan
    path = saved(tmp_path / "a.tif", Image.fromarray(holes))
    for read in (read_image, check_image):
        with pytest.raises(RecordError, match=r"a\.tif: the image has NaN or infinite pixels"):
            read(path)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    alpha = np.dstack([COLOURS, np.full((48, 64), 7, dtype=np.uint8)])
    assert np.array_equal(read_image(saved(tmp_path / "a.png", Image.fromarray(alpha))), COLOURS)


def test_palettes_are_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOURS).quantize(16)
    pixels = read_image(saved(tmp_path / "a.png", palette))
    assert np.array_equal(pixels, np.asarray(palette.convert("RGB")))


def test_cmyk(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(COLOURS).convert("CMYK"), quality=95)
    pixels = read_image(path)
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(float) - COLOURS).mean() < 10


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (6, 1), (3, 2), (8, 3)])
def test_photographs_are_turned_upright(orientation: int, turns: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.rot90(COLOURS, turns).copy()
    path = saved(tmp_path / "a.jpg", Image.fromarray(stored), exif=exif, quality=95)
    upright = read_image(path)
    assert np.abs(upright.astype(float) - COLOURS).mean() < 10
    assert check_image(path).size == (48, 64)


def test_several_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(COLOURS), Image.fromarray(COLOURS)]
    path = saved(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    for read in (read_image, check_image):
        with pytest.raises(RecordError, match=r"has several pages .*save each page as a file"):
            read(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_a_truncated_file_is_found_without_decoding_it_at_full_size(
    suffix: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(np.repeat(COLOURS, 8, 0)))
    assert check_image(path).size == (384, 64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(RecordError, match="the image cannot be read"):
        check_image(path)


def test_digests_are_of_the_content(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.png", Image.fromarray(COLOURS))
    second = saved(tmp_path / "b.png", Image.fromarray(COLOURS))
    other = saved(tmp_path / "c.png", Image.fromarray(COLOURS[::-1].copy()))
    assert check_image(first) == check_image(second)
    assert check_image(first).digest != check_image(other).digest


JPEGS: dict[str, dict[str, object]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "with restarts": {"restart_marker_blocks": 2},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_is_checked_without_its_pixels_as_with_them(kind: str, tmp_path: Path) -> None:
    """Each byte is lost, or all that follow, or becomes the beginning of a marker."""
    path = tmp_path / "a.jpg"
    content = saved(path, Image.fromarray(COLOURS), quality=20, **JPEGS[kind]).read_bytes()
    checked = check_image(path)
    assert checked.size == (48, 64)
    outcomes = {"read": 0, "refused": 0}
    for place in range(2, len(content), 3):
        for rest in (content[place + 1 :], b"", b"\xff" + content[place + 1 :]):
            path.write_bytes(content[:place] + rest)
            try:
                with Image.open(path) as image:
                    size = image.size[::-1]
                    image.draft("L", (8, 6))
                    image.load()
            except (OSError, SyntaxError, ValueError):
                outcomes["refused"] += 1
                with pytest.raises(RecordError, match=r"a\.jpg: the image cannot be read"):
                    check_image(path)
            else:
                outcomes["read"] += 1
                assert check_image(path).size == size
    assert min(outcomes.values()) > 20
