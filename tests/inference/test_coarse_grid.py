"""A coarse grid is asked first, and the other one only where nothing was found."""

import numpy as np
import pytest
from torch import Tensor

from mobile_sam.data.masks import decode, union
from mobile_sam.inference.automatic_masks import AutomaticOptions, SamAutomaticMaskGenerator
from mobile_sam.inference.grid import Crop
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.proposals import AutomaticMask, propose_masks, uncovered_points
from mobile_sam.models.sam import Sam
from tests.helpers.discs import ALL, HEIGHT, WIDTH, Discs, found

SIZE = (HEIGHT, WIDTH)
KEPT = ALL | {"pred_iou_thresh": 0.9}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Points of each call of the decoder from now on."""
    calls: list[Tensor] = []
    decode_points = Discs.decode

    def watched(self: Discs, embedding: Tensor, points: Tensor, *rest: object) -> object:
        calls.extend(points[:, 0])
        return decode_points(self, embedding, points, *rest)

    monkeypatch.setattr(Discs, "decode", watched)
    return calls


def test_points_within_masks_of_the_coarse_grid_are_not_asked(
    model: Sam, image: np.ndarray, asked: list[Tensor]
) -> None:
    coarse = found(model, image, **KEPT, points_per_side=2)
    covered = union([mask.code for mask in coarse], SIZE)
    assert 0.2 < covered.mean() < 0.8
    asked.clear()
    both = found(model, image, **KEPT, points_per_side=8, coarse_points_per_side=2)
    centres = {mask.point for mask in both} - {mask.point for mask in coarse}
    assert 10 < len(centres) < 64
    assert not any(covered[int(y), int(x)] for x, y in centres)
    assert {mask.code for mask in coarse} <= {mask.code for mask in both}
    assert len(asked) == 4 + len(centres)


def test_where_the_coarse_grid_finds_nothing_all_points_are_asked(
    model: Sam, image: np.ndarray, asked: list[Tensor]
) -> None:
    strict = ALL | {"pred_iou_thresh": 2.0, "points_per_side": 8}
    assert found(model, image, **strict, coarse_points_per_side=2) == []
    assert len(asked) == 64 + 4


def test_masks_are_those_of_the_full_grid_where_they_are_apart(
    model: Sam, image: np.ndarray
) -> None:
    """The coarse points are some of the full grid's, so what is left is the full grid's too."""
    full = found(model, image, **KEPT, points_per_side=6)
    some = found(model, image, **KEPT, points_per_side=6, coarse_points_per_side=2)
    assert 0 < len(some) < len(full)
    assert {mask.code for mask in some} <= {mask.code for mask in full}


def test_crops_have_a_coarse_grid_of_their_own(
    model: Sam, image: np.ndarray, asked: list[Tensor]
) -> None:
    options = {"points_per_side": 4, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2}
    none = ALL | {"pred_iou_thresh": 2.0}
    found(model, image, **none, **options, coarse_points_per_side=2)
    assert len(asked) == (16 + 4) + 4 * (4 + 1)
    masks = found(model, image, **KEPT, **options, coarse_points_per_side=2)
    assert {mask.crop.layer for mask in masks} == {0, 1}
    for mask in masks:
        x, y = mask.point
        assert decode(mask.code, SIZE)[int(y), int(x)]


def test_points_on_the_far_edge_are_asked(model: Sam, image: np.ndarray) -> None:
    predictor = SamPredictor(model)
    crop = Crop(0, 0, WIDTH, HEIGHT, 0)
    predictor.set_image(image)
    corner = np.array([[1.0, 1.0]])
    grids = [np.array([[0.25, 0.25]]), corner]
    masks = propose_masks(predictor, grids, crop, SIZE, AutomaticOptions(**ALL))
    assert {mask.point for mask in masks} == {(30.0, 22.5), (120.0, 90.0)}
    everything = AutomaticMask(masks[0].code, 0, (0, 0, 0, 0), 1.0, 1.0, (0.0, 0.0), crop)
    assert len(uncovered_points(corner * (WIDTH, HEIGHT), [everything], crop, SIZE)) == 1


def test_a_coarse_grid_without_points_is_an_error(model: Sam) -> None:
    with pytest.raises(ValueError, match="coarse_points_per_side: 1 points a side"):
        AutomaticOptions(
            crop_n_layers=1, crop_n_points_downscale_factor=2, coarse_points_per_side=1
        )
    generator = SamAutomaticMaskGenerator(model, coarse_points_per_side=2)
    assert [len(grid) for grid in generator.options.grid_passes()[0]] == [4, 1024]
