import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mobile_sam.data.masks import decode
from mobile_sam.inference import proposals
from mobile_sam.inference.automatic_masks import (
    AutomaticOptions,
    SamAutomaticMaskGenerator,
    automatic_masks,
)
from mobile_sam.inference.grid import Crop
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.proposals import CPU_POINTS_PER_PASS, is_near_crop_edge, stability_scores
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam
from tests.helpers.discs import ALL, HEIGHT, RADII, WIDTH, Discs, found


def test_a_mask_is_where_its_point_is(model: Sam, image: np.ndarray) -> None:
    masks = found(model, image, **ALL)
    assert len(masks) == 48
    for mask in masks:
        x, y = mask.point
        pixels = decode(mask.code, (HEIGHT, WIDTH))
        rows, columns = np.nonzero(pixels)
        assert pixels[int(y), int(x)]
        assert mask.area == pixels.sum()
        assert mask.box == (columns.min(), rows.min(), columns.max(), rows.max())
    middle = [m for m in masks if m.point == (45.0, 33.75)]
    radii = [math.sqrt(mask.area / math.pi) * 64 / WIDTH for mask in middle[:2]]
    assert sorted(radii) == pytest.approx(RADII[:2], abs=0.6)


def test_the_best_masks_come_first(model: Sam, image: np.ndarray) -> None:
    scores = [mask.predicted_iou for mask in found(model, image, **ALL)]
    assert len(set(scores)) == 12  # points in a column have equal scores
    assert scores == sorted(scores, reverse=True)
    first = [mask.point[1] for mask in found(model, image, **ALL)[:4]]
    assert first == sorted(first)


@pytest.mark.parametrize(
    ("option", "value", "left"),
    [
        ("pred_iou_thresh", 0.9, 32),
        ("pred_iou_thresh", 0.95, 16),
        ("pred_iou_thresh", 1.0, 0),
        ("stability_score_thresh", 0.87, 16),
    ],
)
def test_thresholds_drop_masks(
    model: Sam, image: np.ndarray, option: str, value: float, left: int
) -> None:
    assert len(found(model, image, **ALL)) == 48
    assert len(found(model, image, **ALL | {option: value})) == left


def test_duplicates_are_dropped(model: Sam, image: np.ndarray) -> None:
    best = ALL | {"pred_iou_thresh": 0.94, "points_per_side": 8}
    every, few = found(model, image, **best), found(model, image, **best | {"box_nms_thresh": 0.3})
    assert len(every) == 64
    assert 8 <= len(few) < 30


def test_only_masks_of_high_predicted_iou_are_upscaled(
    model: Sam, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscaled = watch_upscaling(monkeypatch, "upscale_windows")
    found(model, image, pred_iou_thresh=0.94)
    assert sum(upscaled) == 16


def watch_upscaling(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """The number of masks in each call from now on."""
    counts, upscale = [], getattr(proposals, name)

    def watched(low_res_logits: Tensor, *others: Any) -> Any:
        counts.append(len(low_res_logits))
        return upscale(low_res_logits, *others)

    monkeypatch.setattr(proposals, name, watched)
    return counts


@pytest.mark.parametrize(("batch", "most"), [(3, 3), (64, CPU_POINTS_PER_PASS)])
def test_few_points_are_decoded_at_a_time(
    model: Sam, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, batch: int, most: int
) -> None:
    expected, asked, decode_points = found(model, image, **ALL), [], Discs.decode

    def watched(self: Discs, embedding: Tensor, points: Tensor, *rest: Any) -> Any:
        asked.append(len(points))
        return decode_points(self, embedding, points, *rest)

    monkeypatch.setattr(Discs, "decode", watched)
    assert found(model, image, **ALL, points_per_batch=batch) == expected
    assert (max(asked), sum(asked)) == (most, 16)


def test_few_pixels_are_held_at_a_time(
    model: Sam, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = found(model, image, **ALL)
    monkeypatch.setattr(proposals, "stable_in_windows", proposals.stable_in_batches)  # as on a GPU
    upscaled = watch_upscaling(monkeypatch, "upscale_logits")
    for masks in (3, 0.5):
        monkeypatch.setattr(proposals, "PIXELS_PER_PASS", masks * HEIGHT * WIDTH)
        upscaled.clear()
        assert found(model, image, **ALL) == expected
        assert max(upscaled) == math.ceil(masks)
        assert sum(upscaled) == 48


@pytest.mark.parametrize("size", [(60, 80), (192, 256), (150, 333), (700, 500)])
@pytest.mark.parametrize("threshold", [0.0, -0.7, 1.3])
def test_windows_and_whole_images_give_equal_masks(size: tuple[int, int], threshold: float) -> None:
    noise = 6 * torch.randn(1, 5, 9, 9, generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.interpolate(noise, (64, 64), mode="bicubic")[0]
    logits[1:, :20] = logits[2:, :, 40:] = -9
    logits[4] = -9  # empty
    for least, offset in ((0.0, 1.0), (0.8, 0.5), (0.6, -1.0)):
        options = AutomaticOptions(stability_score_thresh=least, stability_score_offset=offset)
        rows = [
            [
                (row, str(score), mask.tobytes())
                for row, score, mask in select(logits, threshold, 256, size, options)
            ]
            for select in (proposals.stable_in_windows, proposals.stable_in_batches)
        ]
        assert rows[0] == rows[1]
        assert len(rows[0]) == 5 or least


def test_an_encoded_image_is_not_encoded_again(image: np.ndarray) -> None:
    plain = build_sam_model("tiny_sam", 64, seed=3).eval()
    predictor = SamPredictor(plain)
    predictor.set_image(image)
    embedding = predictor.get_image_embedding()
    for layers, encoded in ((0, 0), (1, 4)):
        options = AutomaticOptions(4, crop_n_layers=layers, **ALL)
        expected = automatic_masks(plain, image, options)
        assert len(expected) > 20
        seen: list[int] = []
        hook = plain.image_encoder.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        assert automatic_masks(plain, image, options, embedding) == expected
        hook.remove()
        assert len(seen) == encoded
    other = SamPredictor(plain)
    other.set_image(np.ascontiguousarray(image[::-1]))
    options = AutomaticOptions(4, **ALL)
    turned = automatic_masks(plain, image, options, other.get_image_embedding())
    assert turned != automatic_masks(plain, image, options)


def test_an_embedding_of_another_shape_is_an_error(model: Sam, image: np.ndarray) -> None:
    wanted = (1, model.prompt_encoder.embed_dim, 4, 4)
    for shape in ((2, *wanted[1:]), (*wanted[:3], 5), wanted[1:]):
        with pytest.raises(ValueError, match=r"image_embedding: of shape .* must be \(1, "):
            automatic_masks(model, image, image_embedding=torch.zeros(shape))


def test_masks_of_crops_lie_where_the_crops_are(model: Sam, image: np.ndarray) -> None:
    options = ALL | {"crop_n_layers": 1, "points_per_side": 3}
    masks = found(model, image, **options)
    areas = [mask.crop.area for mask in masks]
    assert areas == sorted(areas)
    assert {mask.crop.layer for mask in masks} == {0, 1}
    for mask in masks:
        x, y = mask.point
        assert decode(mask.code, (HEIGHT, WIDTH))[int(y), int(x)]
        assert mask.crop.x0 <= mask.box[0] <= mask.box[2] < mask.crop.x1
        assert not is_near_crop_edge(mask.box, mask.crop, (HEIGHT, WIDTH))
    fewer = found(model, image, **options | {"crop_nms_thresh": 0.3})
    assert 4 < len(fewer) < len(masks)


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((0, 0, 40, 40), False),  # at the edges of the image alone
        ((0, 0, 79, 40), False),
        ((0, 0, 80, 40), True),
        ((30, 30, 60, 99), True),
        ((0, 0, 100, 40), True),
    ],
)
def test_a_mask_at_an_edge_of_the_crop_is_cut_off(
    box: tuple[int, int, int, int], cut: bool
) -> None:
    assert is_near_crop_edge(box, Crop(0, 0, 100, 100, 1), (200, 200)) == cut
    assert not is_near_crop_edge(box, Crop(0, 0, 100, 100, 0), (100, 100))


def test_stability_is_the_iou_of_a_higher_and_a_lower_mask() -> None:
    logits = torch.tensor([[[-3.0, -0.5, 0.5, 3.0]], [[-3.0, -3.0, -3.0, -3.0]]])
    assert stability_scores(logits, 0.0, 1.0)[0] == pytest.approx(1 / 3)
    assert stability_scores(logits, 0.0, 1.0)[1].isnan()
    assert stability_scores(logits, -1.0, 1.0)[0] == pytest.approx(2 / 3)


class Rings(Discs):
    """Discs with a hole in the middle."""

    def decode(self, *prompts: Any) -> tuple[Tensor, Tensor]:
        logits, predicted_iou = super().decode(*prompts)
        middle = logits > logits.amax((2, 3), keepdim=True) - 1
        return torch.where(middle, -5.0, logits), predicted_iou


def test_small_regions_are_removed(model: Sam, image: np.ndarray) -> None:
    parts = model.image_encoder, model.prompt_encoder, model.mask_decoder
    rings, best = Rings(*parts).eval(), ALL | {"pred_iou_thresh": 0.94}
    middle = {"points_per_side": None, "point_grids": [np.array([[0.5, 0.5]])]}
    (ring,) = found(rings, image, **best, **middle)
    (few,) = found(rings, image, **best, **middle, min_mask_region_area=3)
    (disc,) = found(rings, image, **best, **middle, min_mask_region_area=1000)
    assert few == ring
    assert not decode(ring.code, (HEIGHT, WIDTH))[45, 60]
    assert decode(disc.code, (HEIGHT, WIDTH))[45, 60]
    assert disc.box == ring.box
    assert disc.area > ring.area


def test_no_good_masks_are_no_records(model: Sam, image: np.ndarray) -> None:
    options = {"pred_iou_thresh": 2.0, "crop_n_layers": 1, "min_mask_region_area": 5}
    assert found(model, image, **options) == []


def test_the_mask_threshold_is_that_of_the_options(model: Sam, image: np.ndarray) -> None:
    low, high = (found(model, image, **ALL, mask_threshold=value) for value in (0.0, 8.0))
    assert all(b.area < a.area for a, b in zip(low, high, strict=True))


def test_output_modes_say_the_same(model: Sam, image: np.ndarray) -> None:
    binary, runs, coco = (
        SamAutomaticMaskGenerator(model, 4, **ALL, output_mode=mode).generate(image)
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    )
    assert len(binary) == 48
    for mask, run, code in zip(binary, runs, coco, strict=True):
        pixels = mask["segmentation"]
        assert (pixels.shape, pixels.dtype, pixels.sum()) == ((90, 120), bool, mask["area"])
        counts = run["segmentation"]["counts"]
        assert np.array_equal(pixels.T.ravel(), np.repeat(np.arange(len(counts)) % 2 == 1, counts))
        assert run["segmentation"]["size"] == code["segmentation"]["size"] == [90, 120]
        text = code["segmentation"]["counts"]
        assert isinstance(text, str)
        assert np.array_equal(decode(text.encode(), (HEIGHT, WIDTH)), pixels)
        rest = [{k: v for k, v in r.items() if k != "segmentation"} for r in (mask, run, code)]
        assert rest[0] == rest[1] == rest[2]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("points_per_side", 8),
        ("point_grids", [np.array([[0.5, 0.5], [0.2, 0.3]])]),
        ("pred_iou_thresh", 0.0),
        ("stability_score_thresh", 0.0),
        ("stability_score_offset", 0.2),
        ("box_nms_thresh", 0.2),
        ("crop_n_layers", 1),
        ("min_mask_region_area", 100_000),
        ("mask_threshold", 1.0),
        ("coarse_points_per_side", 2),
        ("output_mode", "coco_rle"),
    ],
)
def test_options_set_later_take_effect(
    model: Sam, image: np.ndarray, option: str, value: Any
) -> None:
    """The generator answers like one made with them; once they were silently ignored."""
    options: dict[str, float | None]
    options = {"points_per_side": 4, "pred_iou_thresh": 0.75, "stability_score_thresh": 0.7}
    generator = SamAutomaticMaskGenerator(model, **options)
    before = generator.generate(image)
    setattr(generator, option, value)
    if option == "point_grids":
        options["points_per_side"] = None
    made = SamAutomaticMaskGenerator(model, **options | {option: value})
    found = [records_as_text(g.generate(image)) for g in (generator, made)]
    assert found[0] == found[1]
    if option not in {"min_mask_region_area", "stability_score_offset"}:  # discs are whole
        assert found[0] != records_as_text(before)


def records_as_text(records: list[dict[str, Any]]) -> str:
    return repr([{k: np.asarray(v).tolist() for k, v in record.items()} for record in records])


def test_options_are_read_as_attributes(model: Sam) -> None:
    generator = SamAutomaticMaskGenerator(model, points_per_side=3, crop_n_layers=1)
    assert [grid.shape for grid in generator.point_grids] == [(9, 2), (9, 2)]
    assert (generator.pred_iou_thresh, generator.points_per_batch) == (0.88, 64)
    generator.crop_n_layers = 0
    assert len(generator.point_grids) == 1
    generator.output_mode = "png"
    with pytest.raises(ValueError, match="output_mode: 'png'"):
        generator.generate(np.zeros((8, 8, 3), np.uint8))


def test_the_generators_predictor_is_the_one_that_encodes(model: Sam, image: np.ndarray) -> None:
    generator = SamAutomaticMaskGenerator(model, 2, **ALL)
    assert generator.predictor.model is generator.model is model
    sizes = []

    class Watched(SamPredictor):
        def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
            sizes.append(image.shape[:2])
            super().set_image(image, image_format)

    generator.predictor = Watched(model)
    assert len(generator.generate(image)) == 12
    assert sizes == [(HEIGHT, WIDTH)]
    assert not generator.predictor.is_image_set


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": None}, "points_per_side or point_grids"),
        ({"point_grids": [np.zeros((1, 2))]}, "points_per_side or point_grids"),
        (
            {"points_per_side": None, "point_grids": [np.zeros((1, 2))], "crop_n_layers": 1},
            "1 grids for the image and 1 layers of crops",
        ),
        ({"points_per_batch": 0}, "points_per_batch: 0"),
        ({"output_mode": "png"}, "output_mode: 'png'"),
    ],
)
def test_options_that_make_no_sense_are_errors(
    model: Sam, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SamAutomaticMaskGenerator(model, **options)
