import pytest
import torch

from mobile_sam.inference.proposals import CPU_POINTS_PER_PASS, points_per_pass
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam

OF_POINT = 8 * 4 * 4 * 32 * 4  # bytes of 8 maps of 4 x 4 cells of 32 channels in 32 bits


class OnGpu(Sam):
    """Says that it is on a GPU."""

    device = torch.device("cuda", 0)


@pytest.fixture
def on_gpu() -> Sam:
    model = build_sam_model("tiny_sam", 64)
    return OnGpu(model.image_encoder, model.prompt_encoder, model.mask_decoder)


@pytest.mark.parametrize(
    ("free", "kept", "points"),
    [(20 * OF_POINT, 0, 10), (4 * OF_POINT, 8 * OF_POINT, 6), (0, 0, 1), (2**40, 0, 1024)],
)
def test_a_gpu_gets_what_half_of_its_free_memory_holds(
    on_gpu: Sam, monkeypatch: pytest.MonkeyPatch, free: int, kept: int, points: int
) -> None:
    """kept: bytes that PyTorch has reserved and does not use."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**41))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: kept + 1000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    assert points_per_pass(on_gpu, None) == points
    assert points_per_pass(on_gpu, 64) == 64


def test_a_cpu_gets_few_points() -> None:
    model = build_sam_model("tiny_sam", 64)
    assert [points_per_pass(model, n) for n in (None, 64, 3)] == [
        CPU_POINTS_PER_PASS,
        CPU_POINTS_PER_PASS,
        3,
    ]
