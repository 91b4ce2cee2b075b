"""What both image encoders share: SAM's neck, and how a block's output is read."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

Level = int | Literal["neck"]


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Neck(nn.Sequential):
    """Backbone channels to embedding channels (SAM, arXiv:2304.02643, appendix A)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )


def block_output(block: nn.Module, run: Callable[[], Any]) -> Tensor:
    """What `block` returns while `run` runs the model it is part of."""
    seen: list[Tensor] = []
    handle = block.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        run()
    finally:
        handle.remove()
    return seen[0]
