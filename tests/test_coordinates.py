import pytest
import torch

from mobile_sam.coordinates import model_frame_size, points_to_model_frame, upscale_logits


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
