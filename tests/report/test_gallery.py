import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.table import Index
from mobile_sam.data.masks import EncodedMasks, Mask, encode
from mobile_sam.data.overlays import (
    COLOURS,
    blend_layers,
    colour_layer,
    layer_uri,
    outline_layer,
    photo_uri,
)
from mobile_sam.data.synthetic import scene
from mobile_sam.paths import RunPaths
from mobile_sam.report.inputs.from_run import read_run
from mobile_sam.report.sections.gallery import (
    TRUTH,
    _masks,
    _thumbnail,
    load_images,
    select_images,
    write_sheet,
)
from tests.helpers.report_objects import report, row
from tests.helpers.report_runs import ERRORS
from tests.helpers.report_tables import disturbed


def codes_of(masks: Sequence[Mask]) -> EncodedMasks:
    return EncodedMasks(map(encode, masks), masks[0].shape)


def images(start: list[float], last: list[float], **changes: int) -> dict[str, list[str]]:
    """Names of images in each group, when `a`, `b`, ... have these mean IoUs."""
    rows = [
        row(name, chr(ord("a") + n), value)
        for name, values in (("start", start), ("00_distill", last))
        for n, value in enumerate(values)
    ]
    chosen = select_images(report(rows, **changes))
    return {name: [choice.image_id for choice in some] for name, some in chosen.items()}


def test_images_are_ranked_by_the_main_checkpoint() -> None:
    last = [0.5, 0.9, 0.1, 0.6, 0.8, 0.2, 0.4]
    found = images([0.0] * 7, last)
    assert found["best"] == ["b", "e"]
    assert found["worst"] == ["c", "f"]
    assert found["median"] == ["d", "a"]
    assert found["worse"] == []


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("examples", [1, 2, 6])
def test_no_image_is_best_and_worst(count: int, examples: int) -> None:
    found = images([0.0] * count, [0.1 * n for n in range(count)], examples=examples)
    shown = [name for group in ("best", "median", "worst") for name in found[group]]
    assert len(shown) == len(set(shown)) == min(count, 3 * examples)
    assert len(found["best"]) >= 1


def test_where_a_stage_made_it_worse_the_largest_drop_comes_first() -> None:
    found = images([0.5, 0.9, 0.7, 0.2], [0.4, 0.3, 0.699, 0.9])
    assert found["worse"] == ["b", "a"]


def test_an_image_that_got_worse_twice_is_shown_once_with_its_larger_drop() -> None:
    values = {"start": 0.9, "00_distill": 0.7, "01_finetune": 0.2}
    rows = [row(name, "a", value) for name, value in values.items()]
    (choice,) = select_images(report(rows))["worse"]
    assert choice.initial_layer == "01_finetune"
    assert choice.caption == "00_distill 0.700 → 01_finetune 0.200 (\N{MINUS SIGN}0.500)"


def test_no_example_is_no_gallery() -> None:
    assert images([0.1], [0.2], examples=0) == {}


def test_a_shot_has_the_truth_and_every_model(finished: RunConfig) -> None:
    one = read_run(finished)
    found = load_images(one, select_images(one))
    index = Index(RunPaths(finished).index, "val")
    records = {index[n].image_id: index[n] for n in range(len(index))}
    for shot in found["best"]:
        names = [layer.name for layer in shot.layers]
        assert names == [TRUTH, *(name for name in ERRORS if name != "box_filled")]
        record = records[shot.image_id]
        ordered = sorted(record.segments, key=lambda segment: segment.segment_id)
        truth = [record.mask(segment) for segment in ordered]
        assert len(truth) > 1
        assert np.array_equal(shot.layers[0].pixels, colour_layer(codes_of(truth)))
        assert np.array_equal(shot.outline, outline_layer(truth, record.size))
        assert not np.array_equal(shot.layers[1].pixels, shot.layers[0].pixels)
        boxes = one.objects[(one.objects["prompt"] == "box")]
        rows = boxes[(boxes["image_id"] == shot.image_id) & (boxes["checkpoint"] == "start")]
        assert shot.layers[1].mean_iou == pytest.approx(rows["iou"].mean())


def test_large_images_become_thumbnails() -> None:
    pixels = np.zeros((700, 1400, 3), dtype=np.uint8)
    pixels[:, :700] = 200
    small = _thumbnail(pixels)
    assert small.shape == (256, 512, 3)
    left = np.zeros((700, 1400), dtype=bool)
    left[:, :700] = True
    rows = pd.DataFrame(
        {"segment_id": ["1"], "truth": [encode(left)], "height": [700], "width": [1400]}
    )
    (mask,) = _masks(rows, "truth", (256, 512))
    assert mask[:, :256].all()
    assert not mask[:, 256:].any()


def test_objects_keep_their_colours_and_small_ones_lie_on_top() -> None:
    large, small = np.ones((9, 9), dtype=bool), np.zeros((9, 9), dtype=bool)
    small[3:6, 3:6] = True
    for masks in ([large, small], [small, large]):
        layer = colour_layer(codes_of(masks))
        colours = len(COLOURS)
        place_of_small = 1 + [m is small for m in masks].index(True)
        place_of_large = 1 + [m is large for m in masks].index(True)
        assert layer[4, 4] == place_of_small
        assert layer[3, 3] == place_of_small + colours
        assert layer[1, 1] == place_of_large
        assert layer[0, 0] == place_of_large + colours
    assert not colour_layer(EncodedMasks([], (9, 9))).any()


def test_a_layer_in_the_page_is_what_is_drawn_beside_it() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:15, 5:20] = True
    layer = colour_layer(codes_of([mask]))
    encoded = layer_uri(layer).removeprefix("data:image/png;base64,")
    shown = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
    under = Image.fromarray(pixels).convert("RGBA")
    expected = np.asarray(Image.alpha_composite(under, shown).convert("RGB")).astype(int)
    assert np.abs(expected - blend_layers(pixels, layer)).max() <= 2
    assert np.array_equal(blend_layers(pixels, np.zeros((20, 30), dtype=np.uint8)), pixels)


def test_the_outline_of_the_truth_shows_on_any_ground() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 5:15] = True
    for ground in (0, 255):
        pixels = np.full((20, 20, 3), ground, dtype=np.uint8)
        drawn = blend_layers(pixels, outline_layer([mask], (20, 20)))
        assert (drawn[5, 5:15] == 255).all()
        assert (drawn[10, 10] == ground).all()
        contrast = np.abs(drawn[5, 5:15].astype(int) - drawn[4, 5:15]).min()
        assert contrast > 100


def test_a_page_of_24_full_images_and_8_checkpoints_stays_below_8_megabytes() -> None:
    pixels, _ = scene(512, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:512, :512]
    circles = [
        np.hypot(x - rng.integers(512), y - rng.integers(512)) < rng.uniform(10, 40)
        for _ in range(60)
    ]
    masks = [disturbed(circle, 0.05, rng) for circle in circles]
    photo, outline = len(photo_uri(pixels)), len(layer_uri(outline_layer(masks, (512, 512))))
    layer = len(layer_uri(colour_layer(codes_of(masks))))
    assert min(photo, outline, layer) > 5000
    assert 24 * (photo + outline + 9 * layer) < 8e6


def test_a_group_without_images_still_has_its_figure(tmp_path: Path) -> None:
    write_sheet([], tmp_path / "gallery_worse.png", "Images where a stage reduced mean IoU")
    assert Image.open(tmp_path / "gallery_worse.png").size[0] > 100
