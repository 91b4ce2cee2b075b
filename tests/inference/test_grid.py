import numpy as np
import pytest

from mobile_sam.inference.grid import Crop, generate_crops, point_grid, point_grids


def test_points_are_the_centres_of_equal_cells_row_by_row() -> None:
    expected = [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert point_grid(2).tolist() == expected
    assert point_grid(1).tolist() == [[0.5, 0.5]]


def test_layers_of_crops_have_fewer_points() -> None:
    assert [len(grid) for grid in point_grids(8, 2, 2)] == [64, 16, 4]
    assert [len(grid) for grid in point_grids(8, 2, 1)] == [64, 64, 64]


@pytest.mark.parametrize(("side", "layers", "downscale"), [(0, 0, 1), (4, 3, 2)])
def test_a_layer_without_points_is_an_error(side: int, layers: int, downscale: int) -> None:
    with pytest.raises(ValueError, match="points_per_side"):
        point_grids(side, layers, downscale)


@pytest.mark.parametrize("size", [(100, 160), (97, 61), (480, 640)])
def test_crops_cover_the_image_and_overlap(size: tuple[int, int]) -> None:
    found = generate_crops(size, 2, 512 / 1500)
    assert found[0] == Crop(0, 0, size[1], size[0], 0)
    for layer, count in ((0, 1), (1, 4), (2, 16)):
        seen = np.zeros(size, dtype=int)
        of_layer = [crop for crop in found if crop.layer == layer]
        for crop in of_layer:
            part = seen[crop.y0 : crop.y1, crop.x0 : crop.x1]
            assert part.shape == crop.size
            assert part.size == crop.area
            part += 1
        assert len(of_layer) == count
        assert seen.min() == 1
        assert seen.max() == (1 if layer == 0 else 4)


def test_crops_overlap_by_a_share_of_the_shorter_side() -> None:
    first, below, right, _ = generate_crops((100, 160), 1, 0.2)[1:]
    assert first.y1 - below.y0 == 20
    assert first.x1 - right.x0 == 20


def test_too_many_crops_of_a_small_image_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"3 layers cut an image of 5 x 9 pixels"):
        generate_crops((9, 5), 3, 0.0)
