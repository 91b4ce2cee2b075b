import pytest
import torch

from mobile_sam.coordinates import (
    model_frame_size,
    points_to_model_frame,
    upscale_logits,
    upscale_windows,
)


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [((1024, 512), (1024, 512)), ((300, 600), (512, 1024)), ((333, 1000), (341, 1024))],
)
def test_longest_side_becomes_img_size(
    image_size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert model_frame_size(image_size, 1024) == expected


def test_points_are_scaled_by_their_axis() -> None:
    points = points_to_model_frame(torch.tensor([[10.0, 20.0]]), (50, 100), 200)
    assert points.tolist() == [[20.0, 40.0]]


def test_padding_is_cut_off_before_the_image_frame() -> None:
    logits = torch.full((1, 1, 16, 16), -1.0)
    logits[..., :8, :] = 1.0  # the upper half is image, the lower half padding
    upscaled = upscale_logits(logits, 64, (30, 60))
    assert upscaled.shape == (1, 1, 30, 60)
    assert (upscaled[..., :28, :] > 0).all()


@pytest.mark.parametrize(
    ("img_size", "image_size"),
    [
        (256, (256, 256)),
        (256, (520, 696)),
        (256, (1024, 768)),
        (256, (150, 131)),
        (128, (300, 300)),
        (1024, (381, 500)),
        *[(128, (129, 400)), (128, (100, 700)), (64, (300, 300)), (64, (40, 64))],
    ],
)
@pytest.mark.parametrize("threshold", [0.0, -1.5, 2.0])
def test_windows_hold_all_logits_above_the_threshold_bit_for_bit(
    img_size: int, image_size: tuple[int, int], threshold: float
) -> None:
    side = img_size // 4
    generator = torch.Generator().manual_seed(0)
    low_res = torch.full((9, side, side), -5.0) + torch.rand(9, side, side, generator=generator)
    low_res[0] += 9  # everywhere
    low_res[1, 0, 0] = low_res[2, -1, -1] = low_res[3, side // 4, side // 4] = 4.0
    low_res[4, side // 8 : side // 4, side // 3 :] += 6 * torch.rand(1, generator=generator)
    low_res[5, 3:5] = low_res[6, :, 3:5] = 3.0
    low_res[7] = torch.randn(side, side, generator=generator)
    whole = upscale_logits(low_res[:, None], img_size, image_size)[:, 0]
    sizes = []
    windows = upscale_windows(low_res, threshold, img_size, image_size)
    for expected, (logits, x0, y0) in zip(whole, windows, strict=True):
        height, width = logits.shape
        assert torch.equal(logits, expected[y0 : y0 + height, x0 : x0 + width])
        expected[y0 : y0 + height, x0 : x0 + width] = -torch.inf
        assert not (expected > threshold).any()
        sizes.append(height * width)
    assert sizes[8] == 0
    if min(img_size, *image_size) > 128:
        assert sizes[1] < sizes[0] / 4
        assert sizes[3] < sizes[0] / 4
