"""Arithmetic is counted as it is by hand and in papers, and time is that of warm passes."""

import itertools
import time

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.evaluation.cost import count_flops, forward_passes, latency
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam

CPU = torch.device("cpu")


def on_meta(model_type: str, img_size: int = 1024) -> Sam:
    """A model without weights, so that the largest one costs nothing."""
    with torch.device("meta"):
        return build_sam_model(model_type, img_size).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("layer", "shape", "products"),
    [
        (nn.Linear(5, 7), (3, 5), 3 * 5 * 7),
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 10 * 12 * 8 * 3 * 9),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 10, 12), 10 * 12 * 8 * 9),
        (nn.Conv2d(3, 8, 3, padding=1, stride=2), (2, 3, 10, 12), 2 * 5 * 6 * 8 * 3 * 9),
    ],
)
def test_a_multiply_accumulate_is_two_flops(
    layer: nn.Module, shape: tuple[int, ...], products: int
) -> None:
    layer.requires_grad_(False)
    assert count_flops(lambda: layer(torch.zeros(shape))) == 2 * products


def test_attention_is_counted_on_the_meta_device() -> None:
    tokens = torch.zeros(1, 4, 100, 8, device="meta")
    counted = count_flops(lambda: F.scaled_dot_product_attention(tokens, tokens, tokens))
    assert counted == 2 * (2 * 4 * 100 * 100 * 8)


def test_mobile_sam_has_a_hundredth_of_the_arithmetic_of_sam() -> None:
    encode, decode = forward_passes(on_meta("vit_t"))
    assert count_flops(encode) / 2e9 == pytest.approx(38.8, abs=0.05)  # GMACs
    assert count_flops(decode) / 2e9 == pytest.approx(1.0, abs=0.05)
    # Zhang et al., EfficientViT-SAM, arXiv:2402.05008: 2973 GMACs.
    assert count_flops(forward_passes(on_meta("vit_h")).encode) / 2e9 == pytest.approx(
        2973, rel=0.005
    )


def test_what_a_model_computes_does_not_depend_on_where_it_is() -> None:
    models = build_sam_model("tiny_sam", 64).eval().requires_grad_(False), on_meta("tiny_sam", 64)
    here, there = (count_flops(forward_passes(model).encode) for model in models)
    assert here == there > 0


def test_passes_are_those_of_a_prediction() -> None:
    model = build_sam_model("tiny_sam", 128).eval().requires_grad_(False)
    encode, decode = forward_passes(model)
    assert encode().shape == (1, 32, 8, 8)
    assert decode().shape == (1, 1, 32, 32)


def test_spread_is_that_of_the_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [6, 1, 11, 2, 10, 3, 9, 4, 8, 5, 7]  # milliseconds
    ends = itertools.accumulate(d for ms in durations for d in (1000, ms))
    clock = iter([ms / 1e3 for ms in ends])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    found = latency(lambda: torch.zeros(1), len(durations), CPU)
    assert found == pytest.approx((2, 6, 10))


def test_the_first_passes_are_not_timed() -> None:
    calls: list[float] = []

    def work() -> Tensor:
        time.sleep(0.2 if len(calls) < 2 else 0.001)
        calls.append(time.perf_counter())
        return torch.zeros(1)

    found = latency(work, 3, CPU)
    assert len(calls) == 5
    assert 1 <= found.low <= found.median <= found.high < 200
