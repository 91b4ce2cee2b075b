"""`segment` on tiles: objects that seams cut are found once and whole; nothing is done twice."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.config.sections import Data, Tile
from mobile_sam.data.masks import bounding_box, decode, encode
from mobile_sam.data.records import find_unlabelled
from mobile_sam.data.tiles import Grid
from mobile_sam.inference.automatic_masks import compressed_rle
from mobile_sam.inference.folder import segment_directory
from mobile_sam.inference.loading import build_sam
from mobile_sam.inference.tiles import MaskRecords, merge_pieces, pieces_of_tile
from mobile_sam.models.sam import Sam
from tests.helpers.segmenting import coco_of, segment_photos

TILE = Tile(size=64, overlap=16)
Labels = NDArray[np.uint8]


class Perfect:
    """Finds each colour of an image; the scores are those of `seed`. Ends after some images."""

    settings: Mapping[str, Any] = {"prompts": "colours"}
    categories: Mapping[int, str] = {1: "segment"}

    def __init__(self, seed: int = 0, ends_after: int | None = None) -> None:
        self.rng, self.ends_after, self.calls = np.random.default_rng(seed), ends_after, 0

    def image_settings(self, image_id: str) -> Mapping[str, Any]:
        return {}

    def records(self, model: Sam, image: NDArray[np.uint8], image_id: str) -> MaskRecords:
        if self.calls == self.ends_after:
            raise KeyboardInterrupt
        self.calls += 1
        return records_of(image[..., 0], self.rng)


def records_of(labels: Labels, rng: np.random.Generator) -> MaskRecords:
    found = []
    for value in np.unique(labels[labels > 0]):
        mask = labels == value
        x0, y0, x1, y1 = bounding_box(mask)
        record: dict[str, Any] = {"segmentation": compressed_rle(encode(mask), labels.shape)}
        record |= {"bbox": [x0, y0, x1 - x0 - 1, y1 - y0 - 1], "point_coords": [[x0, y0]]}
        record |= {"area": int(mask.sum()), "crop_box": [0, 0, labels.shape[1], labels.shape[0]]}
        scores = {name: float(rng.random()) for name in ("predicted_iou", "stability_score")}
        found.append(record | scores)
    return found


def merged(labels: Labels, tile: Tile, seed: int = 0) -> MaskRecords:
    rng = np.random.default_rng(seed)
    size = labels.shape[0], labels.shape[1]
    pieces = []
    for window in Grid.of(size, tile).windows():
        x0, y0, x1, y1 = window.box
        pieces += pieces_of_tile(records_of(labels[y0:y1, x0:x1], rng), window, size)
    return merge_pieces(pieces, size)


def drawn(height: int, width: int, shapes: list[tuple[int, int, int, int]]) -> Labels:
    """Discs (y, x, radius, gap in the middle) that hide none of each other."""
    labels = np.zeros((height, width), dtype=np.uint8)
    ys, xs = np.mgrid[:height, :width]
    for value, (y, x, radius, hole) in enumerate(shapes, start=1):
        distance = (ys - y) ** 2 + (xs - x) ** 2
        mask = (distance < radius**2) & (distance >= hole**2)
        if not labels[mask].any():
            labels[mask] = value
    return labels


def found_objects(labels: Labels, records: MaskRecords) -> dict[int, int]:
    """How many records are exactly one object, by its value."""
    counts: dict[int, int] = {}
    for record in records:
        mask = decode(record["segmentation"]["counts"].encode(), labels.shape)
        (value,) = np.unique(labels[mask])
        assert np.array_equal(mask, labels == value)
        assert record["area"] == mask.sum()
        x, y, width, height = record["bbox"]
        assert bounding_box(mask) == (x, y, x + width + 1, y + height + 1)
        counts[int(value)] = counts.get(int(value), 0) + 1
    return counts


def test_objects_across_one_two_and_four_tiles_are_found_once_and_whole() -> None:
    """Tiles begin at 0, 48, 96, ...: small discs within and across, a large one, and a ring."""
    shapes = [(20, 20, 8, 0), (20, 56, 10, 0), (56, 104, 12, 0), (150, 150, 45, 0)]
    labels = drawn(240, 240, [*shapes, (60, 200, 38, 20), (230, 10, 9, 0)])
    assert found_objects(labels, merged(labels, TILE)) == dict.fromkeys(range(1, 7), 1)


@settings(max_examples=40)
@given(
    shapes=st.lists(
        st.tuples(st.integers(0, 199), st.integers(0, 259), st.integers(2, 70), st.just(0)),
        min_size=1,
        max_size=25,
    ),
    overlap=st.integers(8, 40),
    seed=st.integers(0, 1000),
)
def test_any_discs_are_found_once_and_whole(
    shapes: list[tuple[int, int, int, int]], overlap: int, seed: int
) -> None:
    labels = drawn(200, 260, shapes)
    records = merged(labels, Tile(size=64, overlap=overlap), seed)
    present = {int(value) for value in np.unique(labels[labels > 0])}
    assert found_objects(labels, records) == dict.fromkeys(present, 1)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """A slide in blocks, a photograph of it, and a small image."""
    images = tmp_path / "images"
    images.mkdir()
    labels = drawn(150, 200, [(20, 20, 8, 0), (56, 104, 12, 0), (100, 60, 40, 0), (90, 170, 20, 0)])
    pixels = np.repeat(labels[..., None], 3, axis=2)
    tifffile.imwrite(images / "slide.tif", pixels, tile=(32, 32), photometric="rgb")
    Image.fromarray(pixels).save(images / "photo.png")
    Image.fromarray(pixels[:64, :64]).save(images / "small.png")
    return images


def run(images: Path, out: Path, source: Perfect, weights: Path, tile: Tile | None = TILE) -> str:
    model = build_sam(weights, 64)
    model.image_options = Data(tile=tile)
    return segment_directory(model, find_unlabelled(images), out, source, {"sha256": "x"})


def test_the_files_of_a_large_image(slides: Path, tmp_path: Path, finished_weights: Path) -> None:
    run(slides, tmp_path / "out", Perfect(), finished_weights)
    run(slides, tmp_path / "whole", Perfect(), finished_weights, tile=None)
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    labels = np.asarray(Image.open(slides / "photo.png"))[..., 0]
    for name in ("slide", "photo"):
        content = json.loads((tmp_path / "out" / "masks" / f"{name}.json").read_text())
        assert found_objects(labels, content["annotations"]) == dict.fromkeys(range(1, 5), 1)
        path = tmp_path / "out" / "label_maps" / f"{name}.tif"
        with tifffile.TiffFile(path) as file:
            assert file.is_bigtiff
            numbers = file.asarray()
        assert numbers.dtype == np.uint32
        for place, record in enumerate(content["annotations"], start=1):
            mask = decode(record["segmentation"]["counts"].encode(), labels.shape)
            assert np.array_equal(numbers == place, mask)
        assert not (tmp_path / "out" / "overlays" / f"{name}.jpg").exists()
    assert len(coco["annotations"]) == 4 + 4 + len(np.unique(labels[:64, :64])) - 1
    for kind in ("label_maps/small.png", "overlays/small.jpg"):
        assert (tmp_path / "out" / kind).read_bytes() == (tmp_path / "whole" / kind).read_bytes()
    assert not (tmp_path / "out" / "tiles" / "slide").exists()


def test_an_interrupted_image_continues_at_the_first_missing_tile(
    slides: Path, tmp_path: Path, finished_weights: Path
) -> None:
    (slides / "photo.png").unlink()
    (slides / "small.png").unlink()
    tiles = len(Grid.of((150, 200), TILE).windows())
    with pytest.raises(KeyboardInterrupt):
        run(slides, tmp_path / "out", Perfect(ends_after=5), finished_weights)
    assert not (tmp_path / "out" / "masks" / "slide.json").exists()
    rest = Perfect()
    run(slides, tmp_path / "out", rest, finished_weights)
    assert rest.calls == tiles - 5
    again = Perfect()
    assert "1 of them finished before" in run(slides, tmp_path / "out", again, finished_weights)
    assert again.calls == 0


def test_a_model_segments_tiles_by_the_command(
    slides: Path, finished_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("--pred-iou-thresh", 0, "--stability-score-thresh", 0, "--points-per-side", 2)
    tile = ("--data", json.dumps({"tile": {"size": 64, "overlap": 16}}))
    assert segment_photos(slides, finished_weights, *options, *tile) == 0
    assert len(coco_of(slides)["images"]) == 3
    assert segment_photos(slides, finished_weights, *options) == 1
    assert "the results there have other settings" in caplog.text
    boxes = slides.parent / "boxes.json"
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10]}
    photo = {"id": 1, "file_name": "photo.png", "width": 200, "height": 150}
    content = {"images": [photo], "annotations": [box], "categories": [{"id": 1, "name": "disc"}]}
    boxes.write_text(json.dumps(content))
    assert segment_photos(slides, finished_weights, "--boxes", boxes, *tile) == 1
    assert "boxes are in whole images" in caplog.text
